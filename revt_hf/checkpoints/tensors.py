"""The one door for checkpoints: which tensors they have and where their bytes lie.

Torch's own files are rewritten as temporary safetensors files; only that imports torch.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from revt_hf.checkpoints.families import SEGFORMER, Family, family_of, is_counter
from revt_hf.checkpoints.headers import FLOATS, SAFETENSORS, TensorInfo, read_header, refuse_graph
from revt_hf.checkpoints.hub_parts import HubModel, HubReader, PartsError, Place
from revt_hf.checkpoints.local_files import LocalFiles, Stamps
from revt_hf.checkpoints.names import standard_parts
from revt_hf.checkpoints.shards import check_shards, shards
from revt_hf.core.errors import DataWarning, UserError, readable_os_errors
from revt_hf.core.outputs import ADAPTER_CONFIG_FILE, file_sha256, named_base, read_json_object

CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
# Written by revt_hf beside the weights: how they were trained, or merged.
RECIPE_FILE = "recipe.yaml"
MERGE_FILE, CHANGES_FILE = "merge.json", "changes.json"
# Folders of a run with averages of its weights, named like the recipe's fields.
AVERAGES = ("ema", "swad")
# The folder of a run with its adapter by itself.
ADAPTER = "adapter"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE)
TORCH_WEIGHTS_FILE = "pytorch_model.bin"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
# In transformers' order of preference; an index and its shards.
WEIGHTS = (
    (WEIGHTS_FILE,),
    (INDEX_FILE, "*.safetensors"),
    (TORCH_WEIGHTS_FILE,),
    (f"{TORCH_WEIGHTS_FILE}.index.json", "pytorch_model-*.bin"),
)
# In the metadata of weights that were merged: what MERGE_FILE beside them says.
METADATA_KEY = "revt_hf"
_log = logging.getLogger(__name__)
_FILE_SUFFIXES = (SAFETENSORS, ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; a context manager that removes its temporary files.

    ``folder`` is that of ``config.json``. ``tensors`` (by on-disk name, in order of their bytes)
    point into ``files``, which differ from ``originals`` where they are temporary. ``hub`` says
    which Hub model it is; if that has ``files``, they are on the Hub alone.
    """

    label: str
    folder: Path | None
    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo]
    originals: tuple[Path, ...]
    dropped: tuple[str, ...]
    stamps: Stamps = field(compare=False)
    classes: tuple[str, ...] | None = None
    family: Family = SEGFORMER
    hub: HubModel | None = None
    _scratch: "TemporaryDirectory[str] | None" = field(default=None, repr=False, compare=False)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def original(self, info: TensorInfo) -> Path:
        """The given file that a tensor comes from."""
        return info.file if self.files == self.originals else self.originals[0]

    def reader(self, stack: ExitStack, places: Iterable[Place] = ()) -> LocalFiles | HubReader:
        """What fills buffers from ``files``, until ``stack`` is closed.

        ``places`` are those that will be read, in order: from the Hub these are fetched ahead.
        """
        if self.hub is not None and self.hub.files:
            return HubReader(self.hub, places, stack)
        return LocalFiles(self.files, stack)

    def digests(self) -> dict[str, str]:
        """sha256 of each original by its name: computed, or the Hub's word if it is only there."""
        if self.hub is not None and self.hub.files:
            return {path.name: self.hub.files[path].sha256 for path in self.originals}
        return {path.name: file_sha256(path) for path in self.originals}

    def close(self) -> None:
        """Delete temporary files; ``tensors`` are invalid afterwards."""
        if self._scratch is not None:
            self._scratch.cleanup()


def open_checkpoint(
    source: str | Path, quiet: bool = False, adapters: bool = True, parts: bool = False
) -> Checkpoint:
    """Open a model folder, a file of a SegFormer's weights, or a Hub id ``owner/name@revision``.

    With ``parts`` a Hub model's safetensors files stay on the Hub if they are not here yet.
    """
    path, label = Path(source), str(source)
    if path.is_dir():
        return _open_folder(label, path, adapters)
    refuse_graph(path)
    if path.is_file():
        # Weights by transformers' name beside a config.json belong to that folder.
        own = path.name in (WEIGHTS_FILE, TORCH_WEIGHTS_FILE)
        described = own and (path.parent / CONFIG_FILE).is_file()
        return _open_files(label, (path,), path.parent if described else None, Stamps([path]))
    from revt_hf.checkpoints.download import find, is_hub_id

    if path.exists() or path.suffix in _FILE_SUFFIXES or not is_hub_id(label):
        raise UserError(f"cannot load the model '{label}': there is no such file or folder")
    folder, hub = find(label, quiet, parts)
    if hub.files:
        try:
            return replace(_open_parts(label, folder, hub), hub=hub)
        except PartsError as why:
            _log.info(f"{label} is downloaded whole: {why}")
            folder, hub = find(f"{hub.repository}@{hub.commit}", quiet)
    return replace(_open_folder(label, folder, adapters), hub=hub)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of PEFT, and no whole model."""
    whole = any((folder / name).exists() for name, *_ in WEIGHTS)
    return (folder / ADAPTER_CONFIG_FILE).is_file() and not whole


def adapter_base(folder: Path) -> Path | None:
    """The folder of an adapter's base, downloaded if it is a Hub ID; None if this is no adapter."""
    if not is_adapter(folder):
        return None
    return local_folder(base_source(folder))


def local_folder(source: str | Path) -> Path:
    """A path as it is; the folder of a Hub ID, downloaded if it is not in the cache."""
    from revt_hf.checkpoints.download import fetch, is_hub_id

    is_remote = is_hub_id(str(source)) and not Path(source).exists()
    return fetch(str(source), quiet=True) if is_remote else Path(source)


def base_source(adapter: Path) -> str:
    """The base that an adapter names: a path, or a Hub ID and its revision."""
    path = adapter / ADAPTER_CONFIG_FILE
    config, local = read_json_object(path), named_base(adapter)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise UserError(f"{path}: base_model_name_or_path names no model: write the base's into it")
    # A local folder has no revisions, whatever PEFT wrote down.
    if local is not None:
        return str(local)
    return f"{base}@{revision}" if isinstance(revision, str) and "@" not in base else base


def refuse_adapter(folder: Path) -> None:
    """Refuse an adapter where the files of a whole model are copied."""
    if is_adapter(folder):
        raise UserError(
            f"{folder} is an adapter: take the run's folder above it, which is the whole model, "
            "merge adapters without --as-adapter, or save it with PEFT's merge_and_unload"
        )


def _open_folder(label: str, folder: Path, adapters: bool) -> Checkpoint:
    if adapters and is_adapter(folder):
        return _open_adapter(label, folder)
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{label} is not a model folder: {CONFIG_FILE} is missing")
    for name, *patterns in WEIGHTS:
        path = folder / name
        if path.is_file():
            if (folder / ADAPTER_CONFIG_FILE).is_file():
                warnings.warn(
                    f"{folder} holds whole weights and an adapter: {name} is used, the adapter "
                    "is not",
                    DataWarning,
                    stacklevel=1,
                )
            stamps = Stamps([path])
            return _open_files(label, shards(path) if patterns else (path,), folder, stamps)
    raise UserError(f"{label} is not a model folder: {WEIGHTS_FILE} is missing")


def _open_parts(label: str, folder: Path, hub: HubModel) -> Checkpoint:
    """Open files on the Hub, of which the headers are read."""
    read = {path: hub.header(path) for path in hub.files}
    infos = {path: found for path, (found, _) in read.items()}
    for record in (folder / MERGE_FILE, folder / CHANGES_FILE):
        # A merge is described by its own weights, too; anything else is compared byte for byte.
        text = json.dumps(read_json_object(record), sort_keys=True) if record.is_file() else None
        if text and text not in [metadata.get(METADATA_KEY) for _, metadata in read.values()]:
            raise PartsError(f"its {record.name} has to be compared with the weights")
    if WEIGHTS_FILE not in [path.name for path in infos]:
        check_shards(folder / INDEX_FILE, infos)
    return _open_files(label, tuple(infos), folder, Stamps([]), infos)


def _open_files(
    label: str,
    paths: tuple[Path, ...],
    folder: Path | None,
    stamps: Stamps,
    infos: Mapping[Path, list[TensorInfo]] | None = None,
) -> Checkpoint:
    """Open files together; ``infos`` are those of files on the Hub, whose headers were read."""
    if infos is None:
        stamps.add(*paths)
    # A file by itself can only be a SegFormer's.
    config: dict[str, object] = {"model_type": "segformer"}
    if folder is not None:
        config = read_json_object(folder / CONFIG_FILE)
    family = family_of(config)
    if all(path.suffix == SAFETENSORS for path in paths):
        headers = map(read_header, paths) if infos is None else infos.values()
        found = {info.name: info for header in headers for info in header}
        shapes = {name: info.shape for name, info in found.items()}
        family = family_of(config, shapes)
        parts, dropped = standard_parts(label, shapes, family)
        tensors = {
            name: _part(found[part.name], part.half, part.halves) for name, part in parts.items()
        }
        # Averaging scripts turn the count of batches into a float: it is rewritten as an integer.
        if not any(is_counter(name) and at.dtype in FLOATS for name, at in tensors.items()):
            return Checkpoint(label, folder, paths, tensors, paths, dropped, stamps, family=family)
    if infos is not None:
        raise PartsError("its counters are floating-point numbers")
    from safetensors.torch import save_file

    from revt_hf.checkpoints.torch_files import read_torch_file

    read = read_torch_file(*paths, family=family)
    scratch, tensors = _temporary(
        paths[0], lambda copy: save_file(read.tensors, copy, metadata={"format": "pt"})
    )
    files = (Path(scratch.name) / WEIGHTS_FILE,)
    family = family_of(config, tensors)
    return Checkpoint(
        *(label, folder, files, tensors, paths, read.dropped, stamps, read.classes, family),
        _scratch=scratch,
    )


def _open_adapter(label: str, folder: Path) -> Checkpoint:
    """The whole model of a PEFT adapter and the base that it names.

    The configuration is the adapter's own if it has one: a base is often an encoder alone.
    """
    from revt_hf.checkpoints.adapters import read_adapter

    adapter = read_adapter(folder)
    stamps = Stamps(adapter.files)
    # An adapter of an adapter could be its own base.
    with open_checkpoint(adapter.base, adapters=False) as base:
        stamps.add(*base.originals)
        held = adapter.base_tensors(base)
        scratch, tensors = _temporary(folder, lambda copy: adapter.write(held, copy))
        base.stamps.check()
        described = folder if (folder / CONFIG_FILE).is_file() else base.folder
        originals = (*adapter.files, *base.originals)
    files = (Path(scratch.name) / WEIGHTS_FILE,)
    return Checkpoint(
        *(label, described, files, tensors, originals, base.dropped, stamps, None, adapter.family),
        _scratch=scratch,
    )


def _temporary(
    source: Path, write: Callable[[Path], None]
) -> "tuple[TemporaryDirectory[str], dict[str, TensorInfo]]":
    """Have a temporary safetensors file written; its folder, and where its tensors lie."""
    try:
        scratch = TemporaryDirectory(prefix="revt-")
    except OSError as error:
        raise UserError(f"no temporary folder for {source} ({error}): set TMPDIR") from error
    try:
        copy = Path(scratch.name) / WEIGHTS_FILE
        with readable_os_errors(copy):
            write(copy)
        return scratch, {info.name: info for info in read_header(copy)}
    except BaseException:
        scratch.cleanup()
        raise


def _part(info: TensorInfo, half: int, halves: int) -> TensorInfo:
    if halves == 1:
        return info
    shape, nbytes = (info.shape[0] // halves, *info.shape[1:]), info.nbytes // halves
    return replace(info, shape=shape, offset=info.offset + nbytes * half, nbytes=nbytes)
