"""The original's checkpoints (mmsegmentation 0.x naming) to SegFormer folders, and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from revt_hf.checkpoints.architecture import (
    COUNTER,
    Architecture,
    Description,
    has_head,
    model_config,
    size_name,
    tensor_problems,
    tensor_shapes,
)
from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.headers import TensorInfo, common_dtype
from revt_hf.checkpoints.image_processor import processor
from revt_hf.checkpoints.inferred import infer_description
from revt_hf.checkpoints.local_files import Stamps
from revt_hf.checkpoints.names import BACKBONE_PREFIX, IMAGENET_CLASSIFIER, original_name
from revt_hf.checkpoints.tensors import (
    CONFIG_FILE,
    PROCESSOR_FILE,
    TORCH_WEIGHTS_FILE,
    WEIGHTS_FILE,
    open_checkpoint,
)
from revt_hf.checkpoints.torch_files import DTYPES, read_tensor, read_torch_file
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import (
    atomic_file,
    atomic_folder,
    check_output,
    check_output_file,
    write_json,
)
from revt_hf.data.label_space import CITYSCAPES, CLASSES
from revt_hf.data.normalisation import IMAGENET

# The unused conv_seg has the head's ``channels``, 128 in every size.
_UNUSED_WIDTH = 128
_KEY, _VALUE = ".self.key.", ".self.value."
_EPSILON = "layer_norm_eps"


@dataclass(frozen=True)
class Converted:
    """The result of a conversion."""

    output: Path
    size: str | None  # ``b0`` to ``b5``
    labels: tuple[str, ...]  # class names
    dropped: tuple[str, ...]  # tensors of the source that were left out
    added: tuple[str, ...] = ()  # counters that it lacks


def convert(source: str | Path, output: str | Path, overwrite: bool = False) -> Converted:
    """Convert a checkpoint of the original to a SegFormer folder, bit for bit.

    Size and number of classes come from the tensors' shapes, class names from ``meta``, or with
    their colours from the ``config.json`` beside transformers' own weights (19 classes without
    names are Cityscapes'). An encoder alone (``mit_b*.pth``) becomes a ``SegformerModel`` without
    its classifier.

    Args:
        source: a file of the original, or a torch or safetensors file of a SegFormer.
        output: the new folder.
        overwrite: replace ``output`` if it exists.

    Raises:
        UserError: the file is no SegFormer B0..B5 by its widths, or has tensors missing or left
            over (they are named); or ``output`` exists. Nothing is written then.
    """
    source, output = Path(source), Path(output)
    check_output(output, overwrite, [source])
    label = str(source)
    if source.is_dir():
        raise UserError(f"{label} is a folder, not a file of the original: try --to mmseg")
    stamps = Stamps([source])
    read = read_torch_file(source)
    dtypes = {dtype: name for name, dtype in DTYPES.items()}
    held = {
        name: TensorInfo(source, read.names[name], dtypes[at.dtype], tuple(at.shape), 0, 0)
        for name, at in read.tensors.items()
    }
    whole = has_head(held)
    beside = _description_beside(source) if whole else None
    classes = beside.classes if beside else read.classes
    description, infos, added = _inferred(label, held, original_name, classes)
    if beside is not None:
        _check_same(str(source.parent), description.segformer, beside)
        description = replace(description, colours=beside.colours)
    tensors = {**added, **{name: read.tensors[name] for name in infos}}
    prefix = "" if whole else BACKBONE_PREFIX
    dtype = common_dtype(info.dtype for info in infos.values())
    with atomic_folder(output, overwrite, [source]) as scratch:
        save_file(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items()},
            scratch / WEIGHTS_FILE,
            metadata={"format": "pt"},
        )
        write_json(scratch / CONFIG_FILE, model_config(description, dtype, whole))
        write_json(scratch / PROCESSOR_FILE, processor(IMAGENET))
        # The tensors are memory-mapped from the file.
        stamps.check()
    return Converted(
        output,
        size_name(description.segformer, whole),
        description.classes if whole else (),
        (*read.dropped, *(name for at, name in read.names.items() if at not in infos)),
        tuple(added),
    )


def convert_to_mmseg(
    folder: str | Path, output_file: Path, overwrite: bool = False, quiet: bool = False
) -> Converted:
    """Convert a SegFormer folder to a checkpoint that the original loads, bit for bit.

    Key and value are fused again, and the unused ``conv_seg`` is filled with zeros; the classes'
    colours, if they have their own or are Cityscapes', become ``meta``'s ``PALETTE``. An encoder
    alone has no ``backbone.`` in its names, like the original's ``pretrained`` files.

    Args:
        folder: a folder with ``config.json``, or a Hub id.
        output_file: the new file.
        overwrite: replace ``output_file`` if it exists.
        quiet: no progress bars during downloads.
    """
    label = str(folder)
    check_output_file(output_file, overwrite, [folder])
    with open_checkpoint(folder, quiet) as checkpoint:
        if checkpoint.folder is None:
            raise UserError(f"{label} is a single file: give a folder with {CONFIG_FILE}")
        checkpoint.stamps.add(checkpoint.folder / CONFIG_FILE)
        described = read_description(checkpoint.folder, label)
        inferred, infos, added = _inferred(label, checkpoint.tensors, str)
        _check_same(label, inferred.segformer, described)
        tensors = {**added, **{name: read_tensor(info) for name, info in infos.items()}}
        checkpoint.stamps.check()
    whole = has_head(infos)
    labels = described.classes if whole else ()
    state = _original_state(tensors, whole)
    if whole:
        rows = len(inferred.classes)
        if len(labels) != rows:
            raise UserError(
                f"{label}: its {CONFIG_FILE} names {len(labels)} classes, its head has {rows}"
            )
        state["decode_head.conv_seg.weight"] = torch.zeros(rows, _UNUSED_WIDTH, 1, 1)
        state["decode_head.conv_seg.bias"] = torch.zeros(rows)
    # The original's test script asks for both; None lets it choose colours.
    palette = CITYSCAPES.palette.tolist() if labels == CLASSES else None
    if whole and described.colours:
        palette = [[*bytes.fromhex(colour[1:])] for colour in described.colours]
    meta = {"CLASSES": labels, "PALETTE": palette}
    # An open file: torch hides why it cannot open a path, and refuses names without a suffix.
    with atomic_file(output_file) as scratch, scratch.open("wb") as file:
        torch.save({"meta": meta, "state_dict": state}, file)
    gone = [info.name for name, info in checkpoint.tensors.items() if name not in infos]
    dropped = (*checkpoint.dropped, *gone)
    size = size_name(inferred.segformer, whole)
    return Converted(output_file, size, labels, dropped, tuple(added))


def _description_beside(source: Path) -> Description | None:
    """The description in the folder of transformers' own weights, if that is what they are."""
    folder = source.parent
    if source.name not in (WEIGHTS_FILE, TORCH_WEIGHTS_FILE) or not (folder / CONFIG_FILE).exists():
        return None
    description = read_description(folder)
    if description.normalisation != IMAGENET:
        raise UserError(
            f"{folder}: its {PROCESSOR_FILE} normalises images in another way than the original: "
            "use the folder as it is"
        )
    return description


def _check_same(label: str, inferred: Architecture, described: Description) -> None:
    differences = inferred.differences(described.segformer)
    # Tensors decide it, and an encoder alone has none of it.
    differences.pop("decoder_hidden_size", None)
    if described.fields[_EPSILON] != 1e-6:
        differences[_EPSILON] = (1e-6, described.fields[_EPSILON])
    for field, values in differences.items():
        needed, given = (list(at) if isinstance(at, tuple) else at for at in values)
        raise UserError(
            f"{label}: {field} is {given} in its config.json, the original has {needed}"
        )


def _inferred(
    label: str,
    held: Mapping[str, TensorInfo],
    shown: Callable[[str], str],
    classes: Sequence[str] | None = None,
) -> tuple[Description, dict[str, TensorInfo], dict[str, torch.Tensor]]:
    """The original's network and its tensors, without ImageNet's classifier; a counter it lacks."""
    whole = has_head(held)
    infos = {n: at for n, at in held.items() if whole or not n.startswith(IMAGENET_CLASSIFIER)}
    shapes = {name: info.shape for name, info in infos.items()}
    description = infer_description(label, shapes, classes)
    count = len(description.classes) if whole else None
    problems = tensor_problems(infos, tensor_shapes(description.segformer, count), shown)
    if problems:
        raise UserError(f"{label} is not a SegFormer as the original builds it: {problems}")
    return description, infos, {COUNTER: torch.tensor(0)} if whole and COUNTER not in infos else {}


def _original_state(tensors: Mapping[str, torch.Tensor], whole: bool) -> dict[str, torch.Tensor]:
    state, prefix = {}, "" if whole else "backbone."
    for name, tensor in tensors.items():
        if _KEY in name:
            tensor = torch.cat([tensor, tensors[name.replace(_KEY, _VALUE)]])
        if _VALUE not in name:
            state[original_name(name).removeprefix(prefix)] = tensor
    return state
