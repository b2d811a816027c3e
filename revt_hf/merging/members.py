"""The models of a merge, opened and checked to be one network. No torch is imported."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.checkpoints.architecture import VARIANCE
from revt_hf.checkpoints.description import Description, fitting_tensors, read_description
from revt_hf.checkpoints.headers import FLOATS, TensorInfo
from revt_hf.checkpoints.image_processor import PROCESSOR_FILE, read_processor
from revt_hf.checkpoints.names import COUNTER, HEAD_PREFIX
from revt_hf.checkpoints.tensors import CONFIG_FILE, Stamps, open_checkpoint
from revt_hf.core.errors import UserError

# The offset of a tensor that a file lacks: BatchNorm's count of batches, which is 0 then.
NOWHERE = -1
# The size of images is no part of the network: training derives it from an example.
SIZE_FIELDS = ("do_resize", "size")
_EPSILON = "layer_norm_eps"
_HEAD_WIDTH = "decoder_hidden_size"
_NAMED = 5

Places = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Source:
    """A member or the base: its description, and where the plan's tensors lie in its files.

    ``file`` and ``offset`` (in bytes) of each item are arrays, not one object per tensor: dozens
    of members must fit into little memory. ``dtypes`` are safetensors' names. ``dropped`` names
    tensors that no SegFormer has, ``added`` missing counters.
    """

    label: str
    folder: Path | None
    files: tuple[Path, ...]
    originals: tuple[Path, ...]
    stamps: Stamps
    description: Description | None
    processor: Mapping[str, Any] | None
    classes: tuple[str, ...] | None
    file: NDArray[np.int64]
    offset: NDArray[np.int64]
    dtypes: tuple[str, ...]
    dropped: tuple[str, ...]
    added: tuple[str, ...]


def open_source(
    label: str, stack: ExitStack, quiet: bool, order: Places | None = None, whole: bool = True
) -> tuple[Source, Places]:
    """Open a member or the base, and check its tensors against its ``config.json``, if any.

    ``order`` holds the first member's tensors in the order of the plan; None for that member. With
    ``whole`` the decode head, if there is one, has to fit, too.
    """
    checkpoint = open_checkpoint(label, quiet)
    # Only temporary files have to be closed; keeping the rest open takes memory per member.
    if checkpoint.files != checkpoint.originals:
        stack.enter_context(checkpoint)
    if VARIANCE in checkpoint.tensors and COUNTER not in checkpoint.tensors:
        counter = TensorInfo(checkpoint.files[0], COUNTER, "I64", (), NOWHERE, 8)
        checkpoint = replace(checkpoint, tensors={**checkpoint.tensors, COUNTER: counter})
    folder, classes, found, processor = checkpoint.folder, checkpoint.classes, None, None
    if folder is not None:
        checkpoint.stamps.add(folder / CONFIG_FILE, folder / PROCESSOR_FILE)
        found, processor = read_description(folder, label), read_processor(folder)
        classes = found.classes
        has_head = any(name.startswith(HEAD_PREFIX) for name in checkpoint.tensors)
        fitting_tensors(found, checkpoint.tensors, with_head=whole and has_head)
    order = checkpoint.tensors if order is None else order
    places = [checkpoint.tensors.get(name) for name in order]
    index = {path: number for number, path in enumerate(checkpoint.files)}
    source = Source(
        label=checkpoint.label,
        folder=folder,
        files=checkpoint.files,
        originals=checkpoint.originals,
        stamps=checkpoint.stamps,
        description=found,
        processor=processor,
        classes=classes,
        file=np.array([index[place.file] if place else NOWHERE for place in places]),
        offset=np.array([place.offset if place else NOWHERE for place in places]),
        dtypes=tuple(
            (place or first).dtype for place, first in zip(places, order.values(), strict=True)
        ),
        dropped=checkpoint.dropped,
        added=tuple(name for name, p in checkpoint.tensors.items() if p.offset == NOWHERE),
    )
    return source, checkpoint.tensors


def check_agreement(first: Source, other: Source, encoder_only: bool = False) -> None:
    """Refuse networks that are not the same function of their weights and images.

    Dropout, stochastic depth, dtype and versions do not matter.

    ``encoder_only``: the head and the classes of ``other``, and how its images are resampled, may
    differ, because only its encoder is used.
    """
    found = list(_encoder_differences(first, other, encoder_only))
    found += _processor_differences(first, other, encoder_only)
    if not encoder_only:
        found += _class_differences(first, other)
    _refuse(first, other, found)


def check_rows_are_named(used: Sequence[Source], others: Sequence[Source]) -> None:
    """Refuse a head without class names where another one's rows are not in the usual order."""
    nameless = next((one for one in used if one.classes is None), None)
    named = [one for one in others if one.classes is not None]
    if nameless is None or not named:
        return
    from revt_hf.checkpoints.description import is_train_id_order

    for other in named:
        if not is_train_id_order(other.classes or ()):
            raise UserError(
                f"{nameless.label} names no classes, and those of {other.label} are not "
                "Cityscapes' 19 in the order of their train ids: which row of its head is which "
                f"class is unknown; pass it as a folder with {CONFIG_FILE}"
            )


def check_same_tensors(
    first: Source, wanted: Places, other: Source, held: Places, extra_is_fine: bool = False
) -> None:
    """Refuse a checkpoint that lacks a wanted tensor or holds it in another shape or kind."""
    problems = []
    for name in sorted(wanted.keys() if extra_is_fine else wanted.keys() | held.keys()):
        if name not in held:
            problems.append(f"{name} is missing")
        elif name not in wanted:
            problems.append(f"{name} is extra")
        elif held[name].shape != wanted[name].shape:
            shapes = [list(places[name].shape) for places in (held, wanted)]
            problems.append(f"{name} is {shapes[0]}, not {shapes[1]}")
        elif (held[name].dtype in FLOATS) != (wanted[name].dtype in FLOATS):
            problems.append(f"{name} is {held[name].dtype}, not {wanted[name].dtype}")
    _refuse(first, other, problems)


def _encoder_differences(first: Source, other: Source, encoder_only: bool) -> Iterator[str]:
    if first.description is None or other.description is None:
        return
    found = first.description.architecture.differences(other.description.architecture)
    epsilons = [one.numbers[_EPSILON] for one in (first.description, other.description)]
    if epsilons[0] != epsilons[1]:
        found[_EPSILON] = (epsilons[0], epsilons[1])
    for key, (ours, theirs) in found.items():
        if not (encoder_only and key == _HEAD_WIDTH):
            yield f"{key} of its {CONFIG_FILE} is {_shown(theirs)}, not {_shown(ours)}"


def _class_differences(first: Source, other: Source) -> Iterator[str]:
    ours, theirs = first.classes, other.classes
    if ours is None or theirs is None or ours == theirs:
        return
    # Importing its table of classes takes longer than most comparisons.
    from revt_hf.checkpoints.description import plain

    our_names, their_names = ([plain(name) for name in names] for names in (ours, theirs))
    if our_names == their_names:
        return
    if len(ours) != len(theirs):
        yield f"it has {len(theirs)} classes, not {len(ours)}"
        return
    pairs = zip(our_names, their_names, strict=True)
    row = next(number for number, pair in enumerate(pairs) if len({*pair}) > 1)
    permuted = sorted(our_names) == sorted(their_names)
    problem = "its classes are in another order" if permuted else "it has other classes"
    yield f"{problem}: number {row} is {theirs[row]!a}, not {ours[row]!a}"


def _processor_differences(first: Source, other: Source, encoder_only: bool) -> Iterator[str]:
    # A folder without the file has ImageNet's normalisation; the other fields need two files.
    if first.description is None or other.description is None:
        return
    ours: Mapping[str, Any] = asdict(first.description.normalisation)
    theirs: Mapping[str, Any] = asdict(other.description.normalisation)
    if not encoder_only and first.processor is not None and other.processor is not None:
        ours, theirs = first.processor, other.processor
    for key, value in ours.items():
        if theirs[key] != value and key not in SIZE_FIELDS:
            yield f"{key} of its {PROCESSOR_FILE} is {_shown(theirs[key])}, not {_shown(value)}"


def _refuse(first: Source, other: Source, problems: list[str]) -> None:
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        listed = "; ".join(problems[:_NAMED])
        raise UserError(f"{other.label} does not match {first.label}: {listed}{more}")


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)
