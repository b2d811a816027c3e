"""Open a checkpoint of any kind: which tensors it has and where their bytes lie.

Nothing is loaded and torch is not imported, except for torch's own files (``.pth``, ``.bin``) and
safetensors that have to be changed: their tensors go into a temporary safetensors file, so that
readers see one format only.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from revt_hf.checkpoints import hub
from revt_hf.checkpoints.headers import FLOATS, TensorPlace, read_header
from revt_hf.checkpoints.names import BACKBONE_PREFIX, COUNTER, disk_name, memory_names
from revt_hf.checkpoints.stamps import Stamps
from revt_hf.checkpoints.wrapping import unwrap
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object

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
TORCH_INDEX_FILE = "pytorch_model.bin.index.json"
SAFETENSORS = ".safetensors"
_FILE_SUFFIXES = (SAFETENSORS, ".pth", ".pt", ".bin", ".ckpt")
_BARE_ENCODER = ("encoder.", "stages.")


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; a context manager that takes its temporary files away.

    Attributes:
        label: what the user called it.
        folder: where ``config.json`` lies (also of a folder's weights by themselves), None for
            a single file.
        files: the safetensors files that ``places`` point into.
        places: on-disk name -> place, in the order of the files and of their bytes.
        originals: the files that were given; other than ``files`` where those are temporary.
        dropped: names in the files that no SegFormer has: the original's unused ``conv_seg``,
            averages beside the model.
        classes: the class names that the original keeps in its file, if there are any.
        stamps: what every file that was read looked like before it was opened.
    """

    label: str
    folder: Path | None
    files: tuple[Path, ...]
    places: dict[str, TensorPlace]
    originals: tuple[Path, ...]
    dropped: tuple[str, ...]
    stamps: Stamps = field(compare=False)
    classes: tuple[str, ...] | None = None
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
        source: a SegFormer folder (``model.safetensors`` or ``pytorch_model.bin``, or shards of
            either with their index); a ``.safetensors`` file; a torch file of the original
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
        # Weights by transformers' name beside a config.json are that folder's.
        own = path.name in (WEIGHTS_FILE, TORCH_WEIGHTS_FILE)
        described = own and (path.parent / CONFIG_FILE).is_file()
        return _open_file(label, (path,), path.parent if described else None)
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
        return _open_file(label, (folder / WEIGHTS_FILE,), folder)
    for name in (INDEX_FILE, TORCH_WEIGHTS_FILE, TORCH_INDEX_FILE):
        path = folder / name
        if path.is_file() and name == TORCH_WEIGHTS_FILE:
            return _open_file(label, (path,), folder)
        if path.is_file():
            return _open_shards(label, path, folder)
    raise UserError(f"{label} is not a SegFormer folder: {WEIGHTS_FILE} is missing")


def _open_shards(label: str, index: Path, folder: Path) -> Checkpoint:
    suffix = ".bin" if index.name == TORCH_INDEX_FILE else SAFETENSORS
    stamps = Stamps([index])
    shard_of = _weight_map(index, suffix)
    files = tuple(folder / name for name in sorted(set(shard_of.values())))
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing, and {index} names it")
    if suffix != ".bin":
        _check_index(index, shard_of, [place for file in files for place in read_header(file)])
    return _open_file(label, files, folder, stamps)


def _open_file(
    label: str, paths: tuple[Path, ...], folder: Path | None, stamps: Stamps | None = None
) -> Checkpoint:
    stamps = stamps or Stamps([])
    stamps.add(*paths)
    if all(path.suffix == SAFETENSORS for path in paths):
        found = [place for path in paths for place in read_header(path)]
        places, dropped = _by_standard_name(label, found)
        # Scripts that average turn the count of batches into a float: it is written anew.
        if COUNTER not in places or places[COUNTER].dtype not in FLOATS:
            return Checkpoint(label, folder, paths, places, paths, dropped, stamps)
    from revt_hf.checkpoints.torch_files import rewrite

    try:
        scratch = TemporaryDirectory(prefix="revt-")
    except OSError as error:
        raise UserError(f"no temporary folder for {paths[0]} ({error}): set TMPDIR") from error
    try:
        copy = Path(scratch.name) / WEIGHTS_FILE
        read = rewrite(paths, copy)
        places, _ = _by_standard_name(label, read_header(copy))
    except BaseException:
        scratch.cleanup()
        raise
    return Checkpoint(
        label, folder, (copy,), places, paths, read.dropped, stamps, read.classes, scratch
    )


def _check_index(index: Path, shard_of: dict[str, str], found: list[TensorPlace]) -> None:
    held = {place.name: place.file.name for place in found}
    if held != shard_of or len(held) != len(found):
        odd = sorted(
            {name for name, _ in held.items() ^ shard_of.items()}
            or {place.name for place in found if place.file.name != held[place.name]}
        )
        raise UserError(f"{index} does not fit its shards: look for the tensor {odd[0]!a}")


def _weight_map(index: Path, suffix: str) -> dict[str, str]:
    shard_of = read_json_object(index).get("weight_map")
    if (
        not isinstance(shard_of, dict)
        or not shard_of
        or not all(
            # Nothing outside the folder is opened.
            isinstance(file, str) and file == Path(file).name and file.endswith(suffix)
            for file in shard_of.values()
        )
    ):
        raise UserError(
            f"{index} is not a shard index: it needs a weight_map of tensor to file name"
        )
    return shard_of


def _by_standard_name(
    label: str, found: list[TensorPlace]
) -> tuple[dict[str, TensorPlace], tuple[str, ...]]:
    """Tensors by their names on disk, and the names of those that no SegFormer has."""
    if not found:
        raise UserError(f"{label} holds no tensors")
    unwrapped = unwrap(label, [place.name for place in found])
    dropped = [*unwrapped.dropped]
    places: dict[str, TensorPlace] = {}
    for place in found:
        if place.name not in unwrapped.names:
            continue
        names = memory_names(unwrapped.names[place.name])
        if not names:
            dropped.append(place.name)
        for name, part in zip(names, _parts(place, len(names)), strict=True):
            standard = standard_name(name)
            if standard in places:
                raise UserError(
                    f"{label} holds one tensor under two names, {places[standard].name} and "
                    f"{place.name}: remove one"
                )
            places[standard] = part
    if not places:
        raise UserError(f"{label} holds no tensors of a SegFormer")
    return places, tuple(dropped)


def _parts(place: TensorPlace, count: int) -> list[TensorPlace]:
    """The halves of the original's fused key-value tensor, key first; or the tensor itself."""
    if count < 2:
        return [place] * count
    if not place.shape or place.shape[0] % 2 or not place.shape[0]:
        raise UserError(
            f"{place.file}: {place.name} is {list(place.shape)} and holds no key and value"
        )
    shape, half = (place.shape[0] // 2, *place.shape[1:]), place.nbytes // 2
    return [
        replace(place, shape=shape, offset=place.offset + half * at, nbytes=half) for at in (0, 1)
    ]
