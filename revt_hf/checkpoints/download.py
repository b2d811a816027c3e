"""Download a SegFormer's or an adapter's files from the Hub, without transformers or torch."""

import hashlib
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from revt_hf.checkpoints import tensors
from revt_hf.checkpoints.hub_parts import HubFile, HubModel
from revt_hf.checkpoints.hub_requests import HubError, bounded_requests, reason_of
from revt_hf.checkpoints.shards import indexed
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.core.outputs import ADAPTER_CONFIG_FILE

# A revision that cannot be a branch's name must not become a path in the cache.
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@(?!\S*\.\.)(?!/)\S+)?")
_FILES = (
    tensors.CONFIG_FILE,
    tensors.PROCESSOR_FILE,
    tensors.MERGE_FILE,
    tensors.CHANGES_FILE,
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
    return find(source, quiet)[0]


def find(source: str, quiet: bool = False, parts: bool = False) -> tuple[Path, HubModel]:
    """As :func:`fetch`, and which commit that is.

    With ``parts`` the folder may lack safetensors files: they are the model's ``files`` then.
    """
    from huggingface_hub import constants

    repository, _, revision = source.partition("@")
    xet = constants.HF_HUB_DISABLE_XET
    # Xet's transfers ignore our limits, and plain ones give the same bytes.
    constants.HF_HUB_DISABLE_XET = True
    try:
        with bounded_requests(constants.HF_HUB_DOWNLOAD_TIMEOUT) as requests:
            folder, files = _download(repository, revision or None, quiet, parts)
    except UserError:
        raise
    # Besides OSError and ValueError these may be httpx's errors, which share no base with them.
    # Their messages are not passed on: some quote the request's headers, which contain the token.
    except Exception as error:  # noqa: BLE001
        reason = reason_of(error, repository, revision)
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
    return folder, HubModel(repository, folder.name, files)


def _download(
    repository: str, revision: str | None, quiet: bool, parts: bool
) -> tuple[Path, dict[str, HubFile]]:
    """The folder, and the weights that it lacks because they can be read in parts."""
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
    wanted, cached = [*_FILES, *((tensors.INDEX_FILE,) if parts else tensors.WEIGHTS[0])], False
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
    files = _apart(repository, folder) if parts and not cached else {}
    for patterns in () if files else _WEIGHTS[not parts :]:
        # Whole weights come before an adapter, which the shards' pattern matches, too. An index
        # may be here without its shards.
        held = _weights(folder)
        indexed = bool(held) and (held[0].name, len(patterns)) == (patterns[0], 2)
        if tensors.is_adapter(folder) or not held or indexed:
            # The same commit, whatever was pushed meanwhile.
            take(revision=folder.name, allow_patterns=[*patterns], local_files_only=cached)
    if not (folder / tensors.CONFIG_FILE).is_file() and not tensors.is_adapter(folder):
        raise UserError(
            f"the Hub model '{repository}' has no {tensors.CONFIG_FILE}: it is not a SegFormer"
        )
    if not files and not _weights(folder):
        raise UserError(
            f"the Hub model '{repository}' has no weights: neither {tensors.WEIGHTS_FILE} nor "
            f"{tensors.TORCH_WEIGHTS_FILE}, nor shards of one with their index, nor an adapter's "
            f"{tensors.ADAPTER_WEIGHTS_FILE}"
        )
    for path in [*(folder / name for name in _FILES), *_weights(folder)]:
        if path.is_file():
            _check_bytes(path, repository)
    return folder, files


def _apart(repository: str, folder: Path) -> dict[str, HubFile]:
    """The safetensors files that need not be downloaded; none if one is here, or must be."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE or (folder / ADAPTER_CONFIG_FILE).is_file():
        return {}
    held = list(HfApi().list_repo_tree(repository, revision=folder.name))
    sizes = {one.path: one.lfs for one in held if "/" not in one.path and hasattr(one, "lfs")}
    names = [tensors.WEIGHTS_FILE] if tensors.WEIGHTS_FILE in sizes else []
    if not names and (folder / tensors.INDEX_FILE).is_file():
        names = [path.name for path in indexed(folder / tensors.INDEX_FILE)]
    # Whole files are there from an earlier download; small ones that git holds have no sha256.
    files = {name: lfs for name in names if (lfs := sizes.get(name)) is not None}
    if len(files) < len(names) or all((folder / name).is_file() for name in names):
        return {}
    if not all(_SHA256.fullmatch(str(lfs.sha256)) for lfs in files.values()):
        return {}
    return {name: HubFile(int(lfs.size), lfs.sha256) for name, lfs in files.items()}


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
        reason = reason_of(error, repository, path.parent.name)
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
