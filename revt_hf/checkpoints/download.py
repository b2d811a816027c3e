"""Fetching a SegFormer's files from the Hub, without transformers or torch."""

import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.hub_requests import (
    HubError,
    bounded_requests,
    failed_transport,
)
from revt_hf.core.errors import DataWarning, UserError, causes

# What cannot be a branch's name must not be a path in the cache.
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@(?!\S*\.\.)(?!/)\S+)?")
_CONFIG = "config.json"
_FILES = (_CONFIG, "preprocessor_config.json", "merge.json", "recipe.yaml")
# In transformers' order of preference.
_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20


def is_hub_id(source: str) -> bool:
    """Whether ``source`` reads ``owner/name`` or ``owner/name@revision``."""
    return _HUB_ID.fullmatch(source) is not None


def split_revision(source: str) -> tuple[str, str | None]:
    """Repository and revision of a Hub id; a path that exists is left as it is."""
    if Path(source).exists():
        return source, None
    repository, _, revision = source.partition("@")
    return repository, revision or None


def fetch(source: str, quiet: bool = False) -> Path:
    """Download a model from the Hub, or take it from the cache.

    Every file's bytes are compared with the hash that the Hub names for it (sha256 of large files,
    git's sha1 of small ones), those of an earlier download too. A Hub that is silent, or asks to
    wait, is given up after a minute; see :func:`bounded_requests`.

    Args:
        source: ``owner/name`` or ``owner/name@revision``.
        quiet: no progress bars.

    Returns:
        The snapshot's folder in the Hub's cache; its name is the commit. Only what a SegFormer
        consists of is there: torch's own files come where there is no safetensors file.

    Raises:
        UserError: no such model, revision or file, no access, no network, other bytes than the
            Hub's hash says, or the cache cannot be written.
    """
    from huggingface_hub import constants

    repository, revision = split_revision(source)
    xet = constants.HF_HUB_DISABLE_XET
    # Its transfers know no limit of ours, and the plain ones give the same bytes.
    constants.HF_HUB_DISABLE_XET = True
    try:
        with bounded_requests(constants.HF_HUB_DOWNLOAD_TIMEOUT) as requests:
            folder = _download(repository, revision, quiet)
    except UserError:
        raise
    # Besides OSError and ValueError these may be httpx's errors, which share no base with them.
    # Their messages are not passed on: some quote the request's headers, which hold the token.
    except Exception as error:
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

    def take(*patterns: str, commit: str | None = None, cached: bool = False) -> Path:
        # A pattern's star reaches into folders, and a run's ema/ holds weights too.
        return Path(
            snapshot_download(
                repository,
                revision=commit or revision,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"],
                tqdm_class=NoBar if quiet else None,
                local_files_only=cached,
            )
        )

    cached = False
    try:
        folder = take(*_FILES, *_WEIGHTS[0])
    except HubError as error:
        cached = True
        try:
            folder = take(*_FILES, *_WEIGHTS[0], cached=True)
        except OSError:
            raise error from None
        if not _weights(folder):
            raise error
    for patterns in _WEIGHTS[1:]:
        if not _weights(folder):
            # The same commit, whatever was pushed meanwhile.
            take(*patterns, commit=folder.name, cached=cached)
    if not (folder / _CONFIG).is_file():
        raise UserError(f"the Hub model '{repository}' has no {_CONFIG}: it is not a SegFormer")
    if not _weights(folder):
        raise UserError(
            f"the Hub model '{repository}' has no weights: neither {_WEIGHTS[0][0]} nor "
            f"{_WEIGHTS[2][0]}, nor shards of one with their index"
        )
    for path in [*(folder / name for name in _FILES), *_weights(folder)]:
        if path.is_file():
            _check_bytes(path, repository)
    return folder


def _weights(folder: Path) -> list[Path]:
    """The files of the kind of weights that transformers would read."""
    for first, *more in _WEIGHTS:
        if (folder / first).is_file():
            shards = (path for pattern in more for path in folder.glob(pattern))
            return [folder / first, *sorted(shards)]
    return []


def _check_bytes(path: Path, repository: str) -> None:
    """Refuse a file of a snapshot that differs from the Hub's; it is fetched once more before."""
    from huggingface_hub import hf_hub_download

    wanted = _named_hash(path, repository)
    if _fits(path, wanted):
        return
    try:
        if not path.is_symlink():
            path.unlink()
        hf_hub_download(repository, path.name, revision=path.parent.name, force_download=True)
    except Exception as error:
        reason = _reason(error, repository, path.parent.name)
        raise UserError(
            f"{path} is damaged, its bytes are not those of the Hub's hash {wanted}, and it "
            f"cannot be fetched again: {reason}"
        ) from None
    if not _fits(path, wanted):
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"the Hub sends other bytes for {path.name} of '{repository}' than its own hash "
            f"{wanted} says, twice: nothing of them was kept, try again later"
        )


def _named_hash(path: Path, repository: str) -> str:
    """The hash that the Hub gave for a file of a snapshot."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if path.is_symlink():
        # The cache calls a file by its ETag.
        return path.readlink().name
    if constants.HF_HUB_OFFLINE:
        return ""
    url = hf_hub_url(repository, path.name, revision=path.parent.name)
    return get_hf_file_metadata(url).etag or ""


def _fits(path: Path, wanted: str) -> bool:
    if _SHA256.fullmatch(wanted):
        return _digest(path, hashlib.sha256()) == wanted
    if _SHA1.fullmatch(wanted):
        # Of a git blob, or, from mirrors, of the plain bytes.
        blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        plain = hashlib.sha1(usedforsecurity=False)
        return wanted in (_digest(path, blob), _digest(path, plain))
    return True


def _digest(path: Path, digest: "hashlib._Hash") -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: BaseException, repository: str, revision: str | None) -> str:
    """Why nothing could be fetched and what to do, without a word of the error's own message."""
    from huggingface_hub import constants, errors, get_token

    page, login = (
        f"{constants.ENDPOINT}/{repository}",
        "log in with 'hf auth login' or set HF_TOKEN",
    )
    said: list[tuple[type[BaseException], str]] = [
        (
            errors.OfflineModeIsEnabled,
            "it is not whole in the cache, and HF_HUB_OFFLINE is set: unset it to download it",
        ),
        (errors.HFValidationError, f"'{repository}' is not the id of a Hub model either"),
        (
            errors.GatedRepoError,
            f"the model is gated: accept its license on {page} with your account, and {login}",
        ),
        (errors.RevisionNotFoundError, f"{page} has no branch, tag or commit '{revision}'"),
        (
            errors.RepositoryNotFoundError,
            f"no model {page} is public or open to your token: check the name, or {login}",
        ),
        (errors.EntryNotFoundError, "a file of it was removed from the Hub meanwhile: try again"),
    ]
    for cause in causes(error):
        # What is not in the cache says nothing of why it was looked for there.
        if isinstance(cause, errors.LocalEntryNotFoundError):
            continue
        for kind, sentence in said:
            if isinstance(cause, kind):
                return sentence
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status == 401:
            known = "refuses your token" if get_token() else "asks for a token"
            return f"{constants.ENDPOINT} {known} (status 401): {login}"
        if status == 403:
            return f"your token may not read {page} (status 403): ask its owner, or {login}"
        if status is not None:
            return f"{constants.ENDPOINT} answered with status {status}: try again later"
        lost = failed_transport(cause, constants.ENDPOINT)
        if lost is not None:
            return f"{lost}: check the network, or try again later"
        if isinstance(cause, OSError) and cause.errno:
            return (
                f"cannot write to the Hub's cache {constants.HF_HUB_CACHE} "
                f"({os.strerror(cause.errno)}): set HF_HOME to a folder with space"
            )
    return f"the download broke off ({type(error).__name__}): try again"
