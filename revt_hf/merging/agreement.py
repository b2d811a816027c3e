"""Whether members are one network: configurations, classes, image processors, tensors. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from revt_hf.checkpoints.description import (
    Description,
    is_train_id_order,
    plain,
    read_description,
)
from revt_hf.checkpoints.headers import FLOATS, TensorPlace
from revt_hf.checkpoints.image_processor import PROCESSOR_FILE, read_processor
from revt_hf.checkpoints.tensors import CONFIG_FILE, Checkpoint
from revt_hf.core.errors import UserError

_EPSILON = "layer_norm_eps"
# How large images are made: values stay what they are, and training derives it from an example.
SIZE_FIELDS = ("do_resize", "size")
_HEAD_WIDTH = "decoder_hidden_size"
_NAMED = 5


@dataclass(frozen=True)
class Described:
    """What a checkpoint says of its network.

    Attributes:
        label: what messages call it.
        description: of a folder; None for a single file.
        processor: of a folder that has an image processor, its fields.
        classes: their names in the order of the head's rows, None if they are not known.
    """

    label: str
    description: Description | None
    processor: Mapping[str, Any] | None
    classes: tuple[str, ...] | None


def described(checkpoint: Checkpoint) -> Described:
    """Read what stands beside the tensors; the files are stamped first.

    Raises:
        UserError: ``config.json`` or ``preprocessor_config.json`` is missing or broken.
    """
    folder = checkpoint.folder
    if folder is None:
        return Described(checkpoint.label, None, None, checkpoint.classes)
    checkpoint.stamps.add(folder / CONFIG_FILE, folder / PROCESSOR_FILE)
    found = read_description(folder, checkpoint.label)
    return Described(checkpoint.label, found, read_processor(folder), found.classes)


def check_agreement(first: Described, other: Described, encoder_only: bool = False) -> None:
    """Refuse networks that are not the same function of their weights and images.

    Dropout, stochastic depth, dtype and versions may differ: they change nothing of it.

    Args:
        first: a member.
        other: another one, or the base.
        encoder_only: nothing else of ``other`` is used: its head, its classes and how its images
            are resampled may differ.

    Raises:
        UserError: they differ; the differences are named.
    """
    found = list(_encoder_differences(first, other, encoder_only))
    found += _processor_differences(first, other, encoder_only)
    if not encoder_only:
        found += _class_differences(first, other)
    _refuse(other.label, f"does not match {first.label}", found)


def check_rows_are_named(used: Sequence[Described], others: Sequence[Described]) -> None:
    """Refuse a head without class names where another one's rows are not in the usual order.

    Args:
        used: those whose heads are in the result.
        others: all members.

    Raises:
        UserError: whether the rows are in the order of the names cannot be known.
    """
    nameless = next((one for one in used if one.classes is None), None)
    named = [one for one in others if one.classes is not None]
    if nameless is None or not named:
        return
    for other in named:
        if not is_train_id_order(other.classes or ()):
            raise UserError(
                f"{nameless.label} names no classes, and those of {other.label} are not "
                "Cityscapes' 19 in the order of their train ids: which row of its head is which "
                f"class is not known; give it as a folder with {CONFIG_FILE}"
            )


def check_same_tensors(
    first: Checkpoint,
    other: Checkpoint,
    wanted: Mapping[str, TensorPlace],
    extra_is_fine: bool = False,
) -> None:
    """Refuse a checkpoint that lacks a wanted tensor or has it in another shape or kind.

    Args:
        first: whose tensors are wanted.
        other: is compared.
        wanted: by on-disk name.
        extra_is_fine: ``other`` may have more.

    Raises:
        UserError: it differs; the first few differences are named.
    """
    extra = () if extra_is_fine else sorted(other.places.keys() - wanted.keys())
    missing = sorted(wanted.keys() - other.places.keys())
    both = [(n, other.places[n], p) for n, p in sorted(wanted.items()) if n in other.places]
    _refuse(
        other.label,
        f"does not match {first.label}",
        [
            *(f"{name} is missing" for name in missing),
            *(f"{name} is extra" for name in extra),
            *(
                f"{name} is {list(its.shape)}, not {list(ours.shape)}"
                for name, its, ours in both
                if its.shape != ours.shape
            ),
            *(
                f"{name} is {its.dtype}, not {ours.dtype}"
                for name, its, ours in both
                if (its.dtype in FLOATS) != (ours.dtype in FLOATS)
            ),
        ],
    )


def _encoder_differences(first: Described, other: Described, encoder_only: bool) -> Iterator[str]:
    if first.description is None or other.description is None:
        return
    found = first.description.architecture.differences(other.description.architecture)
    epsilons = [d.numbers[_EPSILON] for d in (first.description, other.description)]
    if epsilons[0] != epsilons[1]:
        found[_EPSILON] = (epsilons[0], epsilons[1])
    for key, (ours, theirs) in found.items():
        if not (encoder_only and key == _HEAD_WIDTH):
            yield f"{key} of its {CONFIG_FILE} is {_shown(theirs)}, not {_shown(ours)}"


def _class_differences(first: Described, other: Described) -> Iterator[str]:
    ours, theirs = first.classes, other.classes
    if ours is None or theirs is None or ours == theirs:
        return
    our_names, their_names = ([plain(name) for name in names] for names in (ours, theirs))
    if our_names == their_names:
        return
    if len(ours) != len(theirs):
        yield f"it has {len(theirs)} classes, not {len(ours)}"
        return
    pairs = zip(our_names, their_names, strict=True)
    place = next(n for n, pair in enumerate(pairs) if len({*pair}) > 1)
    permuted = sorted(our_names) == sorted(their_names)
    what = "its classes are in another order" if permuted else "its classes are others"
    yield f"{what}: number {place} is {theirs[place]!a}, not {ours[place]!a}"


def _processor_differences(first: Described, other: Described, values_only: bool) -> Iterator[str]:
    """Normalisation, for which a folder without the file has ImageNet's; the rest of two files."""
    if first.description is None or other.description is None:
        return
    ours: Mapping[str, Any] = asdict(first.description.normalisation)
    theirs: Mapping[str, Any] = asdict(other.description.normalisation)
    if not values_only and first.processor is not None and other.processor is not None:
        ours, theirs = first.processor, other.processor
    for key, value in ours.items():
        if theirs[key] != value and key not in SIZE_FIELDS:
            yield f"{key} of its {PROCESSOR_FILE} is {_shown(theirs[key])}, not {_shown(value)}"


def _refuse(label: str, what: str, problems: list[str]) -> None:
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(f"{label} {what}: {'; '.join(problems[:_NAMED])}{more}")


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)
