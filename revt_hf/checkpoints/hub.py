"""Fetching a SegFormer's files from the Hub, without transformers or torch."""

import re
from pathlib import Path
from typing import Any

from revt_hf.errors import UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")
_FILES = (
    "config.json",
    "preprocessor_config.json",
    "merge.json",
    "recipe.yaml",
    "model.safetensors.index.json",
    "*.safetensors",
)
_TORCH_FILES = ("pytorch_model.bin",)


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

    Args:
        source: ``owner/name`` or ``owner/name@revision``.
        quiet: no progress bars.

    Returns:
        The snapshot's folder in the Hub's cache; its name is the commit. Only what a SegFormer
        consists of is there: ``pytorch_model.bin`` comes where there is no safetensors file.

    Raises:
        UserError: no such model, no such revision, no access or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class NoBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    def download(*patterns: str) -> Path:
        # A pattern's star reaches into folders, and a run's ema/ holds weights too.
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"],
                tqdm_class=NoBar if quiet else None,
            )
        )

    repository, revision = split_revision(source)
    try:
        folder = download(*_FILES)
        if not any(folder.glob("*.safetensors")):
            folder = download(*_FILES, *_TORCH_FILES)
    # Besides OSError and ValueError these may be httpx's errors, which share no base with them.
    except Exception as error:
        raise UserError(
            f"cannot load the model '{source}': there is no such folder, and no such model could "
            "be fetched from the Hub"
        ) from error
    return folder
