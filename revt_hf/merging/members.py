"""The models of a merge, opened and checked to be one network. No torch is imported."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.checkpoints import architecture
from revt_hf.checkpoints.architecture import json_values
from revt_hf.checkpoints.description import is_train_id_order, read_description
from revt_hf.checkpoints.families import Family, counter_of, is_variance
from revt_hf.checkpoints.headers import TensorInfo
from revt_hf.checkpoints.image_processor import read_processor
from revt_hf.checkpoints.tensors import CONFIG_FILE, PROCESSOR_FILE, Checkpoint, open_checkpoint
from revt_hf.core.errors import UserError, plain

# The offset of a tensor that a file lacks: BatchNorm's count of batches, which is 0 then.
NOWHERE = -1
# The size of images is no part of the network: training derives it from an example.
SIZE_FIELDS = ("do_resize", "size", "do_center_crop", "crop_size")
# Nor what a call returns.
_NOT_THE_IMAGE = ("return_tensors", "processor_class", "data_format", "input_data_format", "device")
# Fields that decide nothing in an encoder that tensors do not show, beside where it is read: bases
# may differ in them. UperNet's width is its head's; a wider stride spreads the same weights.
_OF_THE_HEAD = (
    *("decoder_hidden_size", "hidden_size", "image_size", "out_features", "out_indices"),
    *("stage_names", "pool_scales", "add_fpn", "reshape_hidden_states", "use_mean_pooling"),
    *("vocab_size", "use_mask_token", "output_stride", "aspp_out_channels", "atrous_rates"),
    *("backbone_out_indices", "readout_type", "reassemble_factors", "neck_hidden_sizes"),
    *("neck_ignore_stages", "fusion_hidden_size", "head_in_index", "add_projection"),
    *("use_batch_norm_in_fusion_residual", "use_bias_in_fusion_residual"),
)
_NAMED = 5

Infos = Mapping[str, TensorInfo]


@dataclass(frozen=True, kw_only=True)
class MergeInput(Checkpoint):
    """A member or the base: a checkpoint, and where the plan's tensors lie in its files.

    These are arrays, and ``tensors`` is empty: dozens of members must fit into little memory.
    """

    name: str | None
    description: architecture.Description | None
    processor: Mapping[str, Any] | None
    file: NDArray[np.int64]
    offset: NDArray[np.int64]
    dtypes: tuple[str, ...]
    added: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.label})" if self.name else self.label


def open_source(
    label: str,
    stack: ExitStack,
    quiet: bool,
    order: Infos | None = None,
    name: str | None = None,
    whole: bool = True,
    family: Family | None = None,
    parts: bool = False,
) -> tuple[MergeInput, Infos]:
    """Open a source, with tensors in the first one's ``order``, checked by its configuration.

    With ``whole`` the decode head, if there is one, has to fit, too. Otherwise an encoder alone
    gets the names that it has in a whole model of the ``family``. ``parts`` as in
    :func:`open_checkpoint`.
    """
    checkpoint = open_checkpoint(label, quiet, parts=parts)
    family = family or checkpoint.family
    # Only temporary files have to be closed; keeping the rest open takes memory per member.
    if checkpoint.files != checkpoint.originals:
        stack.enter_context(checkpoint)
    held, description, processor = checkpoint.tensors, None, None
    if not whole:
        names = family.in_whole_model(held, checkpoint.family.prefix, order or {})
        held = {new: held[old] for new, old in names.items()}
    for counter in map(counter_of, filter(is_variance, list(held))):
        if counter not in held:
            added = TensorInfo(checkpoint.files[0], counter, "I64", (), NOWHERE, 8)
            held = {**held, counter: added}
    if checkpoint.folder is not None:
        folder = checkpoint.folder
        checkpoint.stamps.add(folder / CONFIG_FILE, folder / PROCESSOR_FILE)
        description = read_description(folder, label, checkpoint.family)
        processor = read_processor(folder)
        checkpoint = replace(checkpoint, classes=description.classes)
        whole = whole and family.has_head(held)
        # A network of another family is told by its name.
        if family == checkpoint.family:
            architecture.fitting_tensors(description, held, with_head=whole)
    order = held if order is None else order
    index = {path: number for number, path in enumerate(checkpoint.files)}
    source = MergeInput(
        **{**vars(checkpoint), "tensors": {}},
        name=name,
        description=description,
        processor=processor,
        file=np.array([index[held[n].file] if n in held else NOWHERE for n in order]),
        offset=np.array([held[n].offset if n in held else NOWHERE for n in order]),
        dtypes=tuple(held.get(n, first).dtype for n, first in order.items()),
        added=tuple(n for n, place in held.items() if place.offset == NOWHERE),
    )
    return source, held


def check_agreement(first: MergeInput, other: MergeInput, encoder_only: bool = False) -> None:
    """Refuse networks that are not the same function of their weights and images."""
    classes = () if encoder_only else _class_differences(first, other)
    _refuse(first, other, [*_field_differences(first, other, encoder_only), *classes])


def check_rows_are_named(used: Sequence[MergeInput], others: Sequence[MergeInput]) -> None:
    """Refuse a head without class names where another one's rows are not in the usual order."""
    nameless = next((one for one in used if one.classes is None), None)
    for other in others:
        if nameless and other.classes is not None and not is_train_id_order(other.classes):
            raise UserError(
                f"{nameless.label} names no classes, and those of {other.label} are not "
                "Cityscapes' 19 in the order of their train ids: which row of its head is which "
                f"class is unknown; pass it as a folder with {CONFIG_FILE}"
            )


def check_same_tensors(
    first: MergeInput, wanted: Infos, other: MergeInput, held: Infos, extra_is_fine: bool = False
) -> None:
    """Refuse a checkpoint that lacks a wanted tensor or holds it in another shape or kind."""
    compared = {name: at for name, at in held.items() if not extra_is_fine or name in wanted}
    problems = architecture.tensor_problems(
        compared, {name: place.shape for name, place in wanted.items()}
    )
    _refuse(first, other, [problems] if problems else [])


def _field_differences(first: MergeInput, other: MergeInput, encoder_only: bool) -> Iterator[str]:
    ours, theirs = first.description, other.description
    if ours is None or theirs is None:
        return
    files = [one.network() for one in (ours, theirs)]
    if ours.family.title != theirs.family.title:
        # A merge's base may be an encoder by itself, whose tensors are compared.
        encoder = (ours.fields.get("backbone_config") or {}).get("model_type")
        by_itself = theirs.family.generic or encoder == theirs.fields.get("model_type", "")
        if not (encoder_only and by_itself):
            yield f"it is a {theirs.family.title}, not a {ours.family.title}"
        files = [{}, {}]
    # A folder without the file has ImageNet's normalisation; the other fields need two files.
    images = [json_values(asdict(one.normalisation)) for one in (ours, theirs)]
    if not encoder_only and first.processor is not None and other.processor is not None:
        # A field that is left out or null is its default.
        images = [
            {**processor, **image}
            for processor, image in zip((first.processor, other.processor), images, strict=True)
        ]
    left_out = (*SIZE_FIELDS, *_NOT_THE_IMAGE, *(_OF_THE_HEAD if encoder_only else ()))
    for file, (our_fields, their_fields) in ((CONFIG_FILE, files), (PROCESSOR_FILE, images)):
        for key in dict.fromkeys((*our_fields, *their_fields)):
            value, other_value = our_fields.get(key), their_fields.get(key)
            if key not in left_out and value != other_value:
                yield f"{key} of its {file} is {other_value}, not {value}"


def _class_differences(first: MergeInput, other: MergeInput) -> Iterator[str]:
    ours, theirs = first.classes, other.classes
    if ours is None or theirs is None or ours == theirs:
        return
    own, found = list(map(plain, ours)), list(map(plain, theirs))
    if len(own) != len(found):
        yield f"it has {len(found)} classes, not {len(own)}"
    elif own != found:
        row = [one == two for one, two in zip(own, found, strict=True)].index(False)
        permuted = sorted(own) == sorted(found)
        problem = "its classes are in another order" if permuted else "it has other classes"
        yield f"{problem}: number {row} is {theirs[row]!a}, not {ours[row]!a}"


def _refuse(first: MergeInput, other: MergeInput, problems: list[str]) -> None:
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        listed = "; ".join(problems[:_NAMED])
        raise UserError(f"{other.label} does not match {first.label}: {listed}{more}")
