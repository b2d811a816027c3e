"""Download a SegFormer's or an adapter's files from the Hub, without transformers or torch."""

import hashlib
import os
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from revt_hf.checkpoints import tensors
from revt_hf.checkpoints.hub_requests import HubError, bounded_requests, failed_transport
from revt_hf.core.errors import DataWarning, UserError, causes
from revt_hf.core.outputs import ADAPTER_CONFIG_FILE

# A revision that cannot be a branch's name must not become a path in the cache.
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@(?!\S*\.\.)(?!/)\S+)?")
_FILES = (
    tensors.CONFIG_FILE,
    tensors.PROCESSOR_FILE,
    tensors.MERGE_FILE,
    tensors.RECIPE_FILE,
    ADAPTER_CONFIG_FILE,
)
# What stands for a model, in order of preference.
_WEIGHTS = (*tensors.WEIGHTS, (tensors.ADAPTER_WEIGHTS_FILE,))
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def is_hub_id(source: str) -> bool:
    """Whether ``source`` reads ``owner/name`` or ``owner/name@revision``."""
    return _HUB_ID.fullmatch(source) is not None


def fetch(source: str, quiet: bool = False) -> Path:
    """The folder of a Hub model, downloaded or cached, each file as the Hub's hash says."""
    from huggingface_hub import constants

    repository, _, revision = source.partition("@")
    xet = constants.HF_HUB_DISABLE_XET
    # Xet's transfers ignore our limits, and plain ones give the same bytes.
    constants.HF_HUB_DISABLE_XET = True
    try:
        with bounded_requests(constants.HF_HUB_DOWNLOAD_TIMEOUT) as requests:
            folder = _download(repository, revision or None, quiet)
    except UserError:
        raise
    # Besides OSError and ValueError these may be httpx's errors, which share no base with them.
    # Their messages are not passed on: some quote the request's headers, which contain the token.
    except Exception as error:  # noqa: BLE001
        reason = _reason(error, repository, revision)
        # A mistyped folder looks like a Hub id.
        raise UserError(
            f"cannot load the model '{source}': there is no such folder, and {reason}"
        ) from None
    finally:
        constants.HF_HUB_DISABLE_XET = xet
    if requests.failed and not constants.HF_HUB_OFFLINE:
        warnings.warn(
            f"{constants.ENDPOINT} gave no answer for '{source}': its commit {folder.name} is "
            "taken from the cache, and the Hub may have a newer one",
            DataWarning,
            stacklevel=2,
        )
    return folder


def _download(repository: str, revision: str | None, quiet: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class NoBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    # A pattern's star matches folders, too, and a run's ema/ contains weights.
    take = partial(
        snapshot_download,
        repository,
        ignore_patterns=["*/*"],
        tqdm_class=NoBar if quiet else None,
    )
    wanted, cached = [*_FILES, *tensors.WEIGHTS[0]], False
    try:
        folder = Path(take(revision=revision, allow_patterns=wanted))
    except HubError as error:
        cached = True
        try:
            folder = Path(take(revision=revision, allow_patterns=wanted, local_files_only=True))
        except OSError:
            raise error from None
        if not _weights(folder):
            raise error
    for patterns in _WEIGHTS[1:]:
        # Whole weights come before an adapter, which the shards' pattern matches, too.
        if tensors.is_adapter(folder) or not _weights(folder):
            # The same commit, whatever was pushed meanwhile.
            take(revision=folder.name, allow_patterns=[*patterns], local_files_only=cached)
    if not (folder / tensors.CONFIG_FILE).is_file() and not tensors.is_adapter(folder):
        raise UserError(
            f"the Hub model '{repository}' has no {tensors.CONFIG_FILE}: it is not a SegFormer"
        )
    if not _weights(folder):
        raise UserError(
            f"the Hub model '{repository}' has no weights: neither {tensors.WEIGHTS_FILE} nor "
            f"{tensors.TORCH_WEIGHTS_FILE}, nor shards of one with their index, nor an adapter's "
            f"{tensors.ADAPTER_WEIGHTS_FILE}"
        )
    for path in [*(folder / name for name in _FILES), *_weights(folder)]:
        if path.is_file():
            _check_bytes(path, repository)
    return folder


def _weights(folder: Path) -> list[Path]:
    """The weight files that transformers or PEFT would read."""
    for first, *more in _WEIGHTS:
        if (folder / first).is_file():
            shards = (path for pattern in more for path in folder.glob(pattern))
            return [folder / first, *sorted(shards)]
    return []


def _check_bytes(path: Path, repository: str) -> None:
    """Refuse a file that differs from the Hub's; it is downloaded once more before that."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    wanted = ""
    if path.is_symlink():
        # The cache names a file by its ETag.
        wanted = path.readlink().name
    elif not constants.HF_HUB_OFFLINE:
        url = hf_hub_url(repository, path.name, revision=path.parent.name)
        wanted = get_hf_file_metadata(url).etag or ""
    if _matches(path, wanted):
        return
    try:
        if not path.is_symlink():
            path.unlink()
        hf_hub_download(repository, path.name, revision=path.parent.name, force_download=True)
    except Exception as error:  # noqa: BLE001
        reason = _reason(error, repository, path.parent.name)
        raise UserError(
            f"{path} is damaged, its bytes are not those of the Hub's hash {wanted}, and it "
            f"cannot be fetched again: {reason}"
        ) from None
    if not _matches(path, wanted):
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"the Hub sends other bytes for {path.name} of '{repository}' than its own hash "
            f"{wanted} says, twice: nothing of them was kept, try again later"
        )


def _matches(path: Path, wanted: str) -> bool:
    """Whether a file has a hash; True if ``wanted`` is no hash."""
    digests = [hashlib.sha256()] if _SHA256.fullmatch(wanted) else []
    if _SHA1.fullmatch(wanted):
        # Of a git blob, or, from mirrors, of the plain bytes.
        blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        digests = [blob, hashlib.sha1(usedforsecurity=False)]
    with path.open("rb") as file:
        while digests and (chunk := file.read(1 << 20)):
            for digest in digests:
                digest.update(chunk)
    return not digests or wanted in [digest.hexdigest() for digest in digests]


_LOGIN = "log in with 'hf auth login' or set HF_TOKEN"


def _reason(error: BaseException, repository: str, revision: str) -> str:
    """Why a download failed and what to do, without any of the error's own message."""
    from huggingface_hub import constants, errors, get_token

    hub = constants.ENDPOINT
    page = f"{hub}/{repository}"
    offline = (
        "the cache does not hold all of it, and HF_HUB_OFFLINE is set: unset that to download it"
    )
    gated = f"the model is gated: accept its license on {page} with your account, and {_LOGIN}"
    absent = f"no model {page} is public or open to your token: check the name, or {_LOGIN}"
    known = "refuses your token" if get_token() else "asks for a token"
    by_kind = (
        (errors.OfflineModeIsEnabled, offline),
        (errors.HFValidationError, f"'{repository}' is not the id of a Hub model either"),
        (errors.GatedRepoError, gated),
        (errors.RevisionNotFoundError, f"{page} has no branch, tag or commit '{revision}'"),
        (errors.RepositoryNotFoundError, absent),
        (errors.EntryNotFoundError, "a file of it was removed from the Hub meanwhile: try again"),
    )
    by_status = {
        401: f"{hub} {known} (status 401): {_LOGIN}",
        403: f"your token may not read {page} (status 403): ask its owner, or {_LOGIN}",
    }
    for cause in causes(error):
        # That a file is not in the cache is not the reason: why was it looked up there?
        if isinstance(cause, errors.LocalEntryNotFoundError):
            continue
        for kind, sentence in by_kind:
            if isinstance(cause, kind):
                return sentence
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            other = f"{hub} answered with status {status}: try again later"
            return by_status.get(status, other)
        lost = failed_transport(cause, hub)
        if lost is not None:
            return f"{lost}: check the network, or try again later"
        if isinstance(cause, OSError) and cause.errno:
            return (
                f"cannot write to the Hub's cache {constants.HF_HUB_CACHE} "
                f"({os.strerror(cause.errno)}): set HF_HOME to a folder with space"
            )
    return f"the download broke off ({type(error).__name__}): try again"
