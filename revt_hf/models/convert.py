"""The original's checkpoints (mmsegmentation 0.x naming) to SegFormer folders, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.checkpoints.description import PROCESSOR_FILE, read_description
from revt_hf.checkpoints.names import COUNTER, IMAGENET_CLASSIFIER, original_name
from revt_hf.checkpoints.stamps import Stamps
from revt_hf.checkpoints.tensors import (
    CONFIG_FILE,
    TORCH_WEIGHTS_FILE,
    WEIGHTS_FILE,
    open_checkpoint,
    standard_name,
)
from revt_hf.checkpoints.torch_files import read_tensor, read_torch_file
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_file, atomic_folder, check_output, check_output_file
from revt_hf.data.labels import CLASSES, PALETTE
from revt_hf.data.normalisation import IMAGENET
from revt_hf.models.architecture import (
    check_config,
    check_fits,
    empty_model,
    has_head,
    infer_config,
    size_name,
)
from revt_hf.models.load import quiet_transformers

TRANSFORMERS = "transformers"
ORIGINAL = "mmseg"

# The original's test protocol brings a Cityscapes image, 2048x1024, to this size.
_TEST_SIZE = {"height": 512, "width": 1024}
# Nothing runs through conv_seg; its width is the head's ``channels``, 128 in every size.
_UNUSED_WIDTH = 128
_ENCODER = "backbone."
_KEY, _VALUE = ".self.key.", ".self.value."


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    Attributes:
        output: the folder or file.
        size: ``b0`` .. ``b5``, None if the depths or the head are of none of them.
        labels: the class names, none for an encoder alone.
        dropped: tensors of the source that are not in ``output``, by their names in the source.
        added: counters of ``output`` that the source lacks; they are 0.
    """

    output: Path
    size: str | None
    labels: tuple[str, ...]
    dropped: tuple[str, ...]
    added: tuple[str, ...] = ()


def convert_command(
    source: str | Path, output: Path, to: str | None, overwrite: bool, quiet: bool
) -> Converted:
    """What ``revt convert`` does.

    Args:
        source: the original's file; or for ``mmseg`` a SegFormer folder or Hub id.
        output: a folder; or for ``mmseg`` a file.
        to: ``transformers`` (also None) or ``mmseg``.
        overwrite: replace ``output``.
        quiet: no progress bars while the Hub is read.

    Raises:
        UserError: as :func:`convert` and :func:`convert_to_mmseg`; or another ``to``.
    """
    if to in (None, TRANSFORMERS):
        return _to_folder(Path(source), output, overwrite)
    if to == ORIGINAL:
        return _to_original(source, output, overwrite, quiet)
    raise UserError(f"--to {to}: choose {TRANSFORMERS} or {ORIGINAL}")


def convert(source: Path, output: Path, overwrite: bool = False) -> Path:
    """Turn a checkpoint of the original into a SegFormer folder, bit for bit.

    The folder is an ordinary one for transformers. Size and number of classes come from the
    tensors' shapes, class names from ``meta``, or the ``config.json`` beside transformers' own
    weights (for 19 classes without names, Cityscapes').
    Tensors of the encoder alone, as ImageNet checkpoints (``mit_b*.pth``) have them, become a
    ``SegformerModel``: a recipe's ``model.init``. Their classifier and the original's unused
    ``conv_seg`` are dropped.

    Args:
        source: a file of the original, or a torch or safetensors file of a SegFormer.
        output: the new folder.
        overwrite: replace ``output`` if it exists.

    Raises:
        UserError: the file cannot be read, asks for more than tensors and plain values, is not a
            SegFormer B0..B5 by its widths, or has tensors too few or too many (they are named);
            or ``output`` exists. Nothing is written then.
    """
    return _to_folder(source, output, overwrite).output


def convert_to_mmseg(
    folder: str | Path, output_file: Path, overwrite: bool = False, quiet: bool = False
) -> Path:
    """Turn a SegFormer folder into a checkpoint that the original loads, bit for bit.

    ``{'meta': {'CLASSES', 'PALETTE'}, 'state_dict': {...}}``; key and value are fused again, and
    the unused ``conv_seg`` is there, as zeros. An encoder alone has no ``backbone.`` in its names,
    as the original's ``pretrained`` files have none.

    Args:
        folder: with ``config.json``; or a Hub id.
        output_file: the new file.
        overwrite: replace ``output_file`` if it exists.
        quiet: no progress bars while the Hub is read.

    Raises:
        UserError: the folder cannot be read, is not a network that the original can build, or has
            tensors too few or too many (they are named); or the file exists.
    """
    return _to_original(folder, output_file, overwrite, quiet).output


def describe(
    label: str,
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    classes: tuple[str, ...] | None = None,
) -> None:
    """Write ``config.json`` and ``preprocessor_config.json`` of tensors that have none.

    Args:
        label: what errors call the tensors' source.
        shapes: of a whole SegFormer, by on-disk name.
        folder: gets the files.
        classes: their names, where they are known.

    Raises:
        UserError: as :func:`convert`, for widths that are of no SegFormer or a missing head.
    """
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if not has_head(tensors):
        raise UserError(f"{label} has no decode head: give a member that has one, with its folder")
    config = infer_config(label, tensors)
    _name_classes(config, classes)
    config.architectures = [SegformerForSemanticSegmentation.__name__]
    config.save_pretrained(folder)
    _processor().save_pretrained(folder)


def _processor() -> SegformerImageProcessorPil:
    return SegformerImageProcessorPil(size=_TEST_SIZE, do_reduce_labels=False)


def _to_folder(source: Path, output: Path, overwrite: bool) -> Converted:
    check_output(output, overwrite, [source])
    if source.is_dir():
        raise UserError(f"{source} is a folder, not a file of the original: try --to {ORIGINAL}")
    stamps = Stamps([source])
    read = read_torch_file(source)
    tensors, dropped = _without_classifier(read.tensors)
    whole = has_head(tensors)
    added = _count(tensors) if whole else ()
    config = infer_config(str(source), tensors)
    beside = _beside(source, config) if whole else None
    labels = _name_classes(config, beside or read.meta.get("CLASSES")) if whole else ()
    model = empty_model(config, whole)
    check_fits(str(source), model, tensors, lambda name: read.names.get(name, original_name(name)))
    model.load_state_dict(
        {name: tensors[standard_name(name)] for name in model.state_dict()}, assign=True
    )
    with atomic_folder(output, overwrite, [source]) as scratch, quiet_transformers():
        model.save_pretrained(scratch)
        _processor().save_pretrained(scratch)
        # The tensors are mapped from the file.
        stamps.check()
    gone = (*read.dropped, *(read.names[name] for name in dropped))
    return Converted(output, size_name(config, whole), labels, gone, added)


def _beside(source: Path, config: SegformerConfig) -> tuple[str, ...] | None:
    """The classes that a ``config.json`` names for the weights beside it; None without one.

    Raises:
        UserError: it or the image processor asks for another network than the tensors' shapes do.
    """
    folder = source.parent
    if source.name not in (WEIGHTS_FILE, TORCH_WEIGHTS_FILE) or not (folder / CONFIG_FILE).exists():
        return None
    description = read_description(folder)
    check_config(str(folder), config, SegformerConfig(**description.config()))
    if description.normalisation != IMAGENET:
        raise UserError(
            f"{folder}: its {PROCESSOR_FILE} normalises images in another way than the original: "
            "use the folder as it is"
        )
    return description.classes


def _to_original(source: str | Path, output: Path, overwrite: bool, quiet: bool) -> Converted:
    label = str(source)
    check_output_file(output, overwrite, [source])
    with open_checkpoint(source, quiet) as checkpoint:
        folder, gone = checkpoint.folder, checkpoint.dropped
        if folder is None:
            raise UserError(f"{label} is a single file: give a folder with {CONFIG_FILE}")
        in_file = {name: place.name for name, place in checkpoint.places.items()}
        everything = {name: read_tensor(place) for name, place in checkpoint.places.items()}
        checkpoint.stamps.add(folder / CONFIG_FILE)
        theirs = _read_config(label, folder)
        checkpoint.stamps.check()
    tensors, dropped = _without_classifier(everything)
    whole = has_head(tensors)
    added = _count(tensors) if whole else ()
    config = infer_config(label, tensors)
    check_config(label, config, theirs)
    model = empty_model(config, whole)
    check_fits(label, model, tensors, lambda name: in_file.get(name, name))
    state = _original_state(
        {name: tensors[name] for name in map(standard_name, model.state_dict())}, whole
    )
    labels = tuple(theirs.id2label.values()) if whole else ()
    if whole and len(labels) != config.num_labels:
        raise UserError(
            f"{label}: its {CONFIG_FILE} names {len(labels)} classes, its head has "
            f"{config.num_labels}"
        )
    # The original's test script asks for both; None lets it choose colours.
    palette = PALETTE.tolist() if labels == CLASSES else None
    if whole:
        state["decode_head.conv_seg.weight"] = torch.zeros(config.num_labels, _UNUSED_WIDTH, 1, 1)
        state["decode_head.conv_seg.bias"] = torch.zeros(config.num_labels)
    # Torch does not say why it cannot write a file that it opens itself, and refuses names without
    # a suffix.
    with atomic_file(output) as scratch, scratch.open("wb") as file:
        torch.save({"meta": {"CLASSES": labels, "PALETTE": palette}, "state_dict": state}, file)
    gone = (*gone, *(in_file[name] for name in dropped))
    return Converted(output, size_name(config, whole), labels, gone, added)


def _original_state(tensors: dict[str, torch.Tensor], whole: bool) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in tensors.items():
        if _VALUE in name:
            continue
        original = original_name(name)
        if _KEY in name:
            tensor = torch.cat([tensor, tensors[name.replace(_KEY, _VALUE)]])
        state[original if whole else original.removeprefix(_ENCODER)] = tensor
    return state


def _without_classifier(
    tensors: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors but for an ImageNet classifier beside an encoder, and the names of its own."""
    if has_head(tensors):
        return tensors, []
    dropped = [name for name in tensors if name.startswith(IMAGENET_CLASSIFIER)]
    return {name: tensor for name, tensor in tensors.items() if name not in dropped}, dropped


def _count(tensors: dict[str, torch.Tensor]) -> tuple[str, ...]:
    """Let the head's BatchNorm count from 0 where a file does not say; the names put in."""
    if COUNTER in tensors:
        return ()
    tensors[COUNTER] = torch.tensor(0)
    return (COUNTER,)


def _name_classes(config: SegformerConfig, given: Any) -> tuple[str, ...]:
    """Write the classes' names into ``config``: the given ones, if they are as many."""
    if given is None and config.num_labels == len(CLASSES):
        given = CLASSES
    if (
        isinstance(given, list | tuple)
        and len(given) == config.num_labels
        and all(isinstance(name, str) for name in given)
    ):
        config.id2label = dict(enumerate(given))
        config.label2id = {name: number for number, name in enumerate(given)}
    return tuple(config.id2label.values())


def _read_config(label: str, folder: Path) -> Any:
    return SegformerConfig(**read_description(folder, label).config())
