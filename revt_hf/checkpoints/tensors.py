"""Open a checkpoint of any kind: which tensors it has and where their bytes lie.

Nothing is loaded and torch is not imported, except for torch's own files (``.pth``, ``.bin``):
their tensors go into a temporary safetensors file, so that readers see one format only.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from revt_hf.checkpoints import hub
from revt_hf.checkpoints.headers import TensorPlace, read_header
from revt_hf.checkpoints.names import BACKBONE_PREFIX, disk_name
from revt_hf.errors import UserError

__all__ = ["Checkpoint", "TensorPlace", "open_checkpoint", "standard_name"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
# What revt_hf puts beside the weights: how they were trained, or merged.
RECIPE_FILE = "recipe.yaml"
MERGE_FILE = "merge.json"
# Averages of the weights within a run lie in folders of the run's, named like the recipe's fields.
AVERAGES = ("ema", "swad")
INDEX_FILE = "model.safetensors.index.json"
TORCH_WEIGHTS_FILE = "pytorch_model.bin"
_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_BARE_ENCODER = ("encoder.", "stages.")


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; a context manager that takes its temporary files away.

    Attributes:
        label: what the user called it.
        folder: where ``config.json`` lies, None for a single file.
        files: the safetensors files that ``places`` point into.
        places: on-disk name -> place, in the order of the files and of their bytes.
        originals: the files that were given; other than ``files`` where those are temporary.
        dropped: names in a torch file that no SegFormer has: the original's unused ``conv_seg``.
    """

    label: str
    folder: Path | None
    files: tuple[Path, ...]
    places: dict[str, TensorPlace]
    originals: tuple[Path, ...]
    dropped: tuple[str, ...] = ()
    _scratch: "TemporaryDirectory[str] | None" = field(default=None, repr=False, compare=False)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def original(self, place: TensorPlace) -> Path:
        """The given file that a tensor comes from."""
        return place.file if self.files == self.originals else self.originals[0]

    def close(self) -> None:
        """Delete the temporary files, if there are any; ``places`` are void then."""
        if self._scratch is not None:
            self._scratch.cleanup()


def open_checkpoint(source: str | Path, quiet: bool = False) -> Checkpoint:
    """Open a checkpoint for reading.

    Args:
        source: a SegFormer folder (``model.safetensors``, sharded safetensors with their index,
            or ``pytorch_model.bin``); a ``.safetensors`` file; a torch file of the original
            (``.pth``) or of transformers; a Hub id ``owner/name`` or ``owner/name@revision``.
        quiet: no progress bars while the Hub is read.

    Returns:
        The checkpoint, to be used in a ``with`` statement.

    Raises:
        UserError: there is no such thing, it is broken, it holds no tensors or one twice under
            different names, or a torch file asks for more than tensors and plain values.
    """
    path, label = Path(source), str(source)
    if path.is_dir():
        return _open_folder(label, path)
    if path.is_file():
        return _open_file(label, path, None)
    if path.exists() or path.suffix in _FILE_SUFFIXES or not hub.is_hub_id(label):
        raise UserError(f"cannot load the model '{label}': there is no such file or folder")
    return _open_folder(label, hub.fetch(label, quiet))


def standard_name(name: str) -> str:
    """The on-disk name, inside a whole SegFormer, of a tensor named as in memory or on disk."""
    # A SegformerModel by itself has no prefix.
    return disk_name(f"{BACKBONE_PREFIX}{name}" if name.startswith(_BARE_ENCODER) else name)


def _open_folder(label: str, folder: Path) -> Checkpoint:
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{label} is not a SegFormer folder: {CONFIG_FILE} is missing")
    # In transformers' order of preference.
    if (folder / WEIGHTS_FILE).is_file():
        return _open_file(label, folder / WEIGHTS_FILE, folder)
    if (folder / INDEX_FILE).is_file():
        files, found = _read_shards(folder)
        return Checkpoint(label, folder, files, _by_standard_name(label, found), files)
    if (folder / TORCH_WEIGHTS_FILE).is_file():
        return _open_file(label, folder / TORCH_WEIGHTS_FILE, folder)
    raise UserError(f"{label} is not a SegFormer folder: {WEIGHTS_FILE} is missing")


def _open_file(label: str, path: Path, folder: Path | None) -> Checkpoint:
    if path.suffix == ".safetensors":
        places = _by_standard_name(label, read_header(path))
        return Checkpoint(label, folder, (path,), places, (path,))
    from revt_hf.checkpoints.torch_files import rewrite

    try:
        scratch = TemporaryDirectory(prefix="revt-")
    except OSError as error:
        raise UserError(f"no temporary folder for {path} ({error}): set TMPDIR") from error
    try:
        copy = Path(scratch.name) / WEIGHTS_FILE
        dropped = rewrite(path, copy)
        places = _by_standard_name(label, read_header(copy))
    except BaseException:
        scratch.cleanup()
        raise
    return Checkpoint(label, folder, (copy,), places, (path,), dropped, scratch)


def _read_shards(folder: Path) -> tuple[tuple[Path, ...], list[TensorPlace]]:
    index = folder / INDEX_FILE
    shard_of = _weight_map(index)
    files = tuple(folder / name for name in sorted(set(shard_of.values())))
    found: list[TensorPlace] = []
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing, and {index} names it")
        found += read_header(file)
    held = {place.name: place.file.name for place in found}
    if held != shard_of or len(held) != len(found):
        odd = sorted(
            {name for name, _ in held.items() ^ shard_of.items()}
            or {place.name for place in found if place.file.name != held[place.name]}
        )
        raise UserError(f"{index} does not fit its shards: look for the tensor {odd[0]!a}")
    return files, found


def _weight_map(index: Path) -> dict[str, str]:
    try:
        read: Any = json.loads(index.read_text(encoding="utf-8"))
        shard_of = read["weight_map"]
        if not shard_of or not all(
            # Nothing outside the folder is opened.
            isinstance(file, str) and file == Path(file).name and file.endswith(".safetensors")
            for file in shard_of.values()
        ):
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{index} is not a shard index: it needs a weight_map of tensor to file name"
        ) from error
    return dict(shard_of)


def _by_standard_name(label: str, found: list[TensorPlace]) -> dict[str, TensorPlace]:
    places: dict[str, TensorPlace] = {}
    for place in found:
        name = standard_name(place.name)
        if name in places:
            raise UserError(
                f"{label} holds one tensor under two names, {places[name].name} and "
                f"{place.name}: remove one"
            )
        places[name] = place
    if not places:
        raise UserError(f"{label} holds no tensors")
    return places
