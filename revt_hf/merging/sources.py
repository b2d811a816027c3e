"""A merge's members and base: opened, compared with their descriptions, and where tensors lie."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.checkpoints.architecture import VARIANCE
from revt_hf.checkpoints.description import fitting_places
from revt_hf.checkpoints.headers import TensorPlace
from revt_hf.checkpoints.names import COUNTER, HEAD_PREFIX, listed
from revt_hf.checkpoints.tensors import Checkpoint, Stamps, open_checkpoint
from revt_hf.merging.agreement import Described, described

# A tensor that a file lacks: BatchNorm's count of batches, which is 0 then.
NOWHERE = -1


@dataclass(frozen=True)
class Source:
    """A member or the base: where the tensors of the plan's items lie in its files.

    Attributes:
        label: what the user called it.
        folder: where ``config.json`` lies, None for a single file.
        files: that are read.
        originals: that were given.
        file: for each item, the number of its file.
        offset: of each item's first byte; ``NOWHERE`` for one that it does not hold.
        dtypes: of the items that are of another one here than in the result.
        stamps: of every file that was read.
        says: its configuration, classes and image processor.
        dropped: names of tensors that no SegFormer has.
        added: names of counters that it lacks; they are 0.
    """

    label: str
    folder: Path | None
    files: tuple[Path, ...]
    originals: tuple[Path, ...]
    file: NDArray[np.int64]
    offset: NDArray[np.int64]
    dtypes: Mapping[int, str]
    stamps: Stamps
    says: Described
    dropped: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def remarks(label: str, entry: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """What is not taken from a member as it is, in words.

    Args:
        label: the member.
        entry: as in its entry in the record (``Plan.left``).
        labels: of all members.
    """
    found = []
    if entry.get("dropped"):
        found.append(f"left out of {label}: {listed(entry['dropped'])}")
    if entry.get("added"):
        found.append(f"missing in {label}, 0 is taken: {listed(entry['added'])}")
    if entry.get("image_size"):
        own, taken = (_size_text(entry["image_size"][key]) for key in ("own", "taken"))
        other = labels[entry["image_size"]["member"] - 1]
        found.append(f"image size of {label}: {own}; taken is that of {other}: {taken}")
    return found


def _size_text(fields: Mapping[str, Any]) -> str:
    size = ", ".join(f"{key} {value}" for key, value in fields["size"].items())
    return size if fields["do_resize"] else f"{size}, not resized"


def open_source(
    label: str, stack: ExitStack, quiet: bool, whole: bool = True
) -> tuple[Checkpoint, Described]:
    """A checkpoint whose tensors are those of its ``config.json``, if it has one."""
    checkpoint = open_checkpoint(label, quiet)
    # Only temporary files need an end; holding on to all others would take memory a member.
    if checkpoint.files != checkpoint.originals:
        stack.enter_context(checkpoint)
    if VARIANCE in checkpoint.places and COUNTER not in checkpoint.places:
        counter = TensorPlace(checkpoint.files[0], COUNTER, "I64", (), NOWHERE, 8)
        checkpoint = replace(checkpoint, places={**checkpoint.places, COUNTER: counter})
    says = described(checkpoint)
    if says.description is not None:
        has_head = any(name.startswith(HEAD_PREFIX) for name in checkpoint.places)
        fitting_places(says.description, checkpoint.places, with_head=whole and has_head)
    return checkpoint, says


def source_of(checkpoint: Checkpoint, says: Described, first: Mapping[str, TensorPlace]) -> Source:
    """Where a checkpoint has the first member's tensors; dtypes where they are not that one's."""
    places = [checkpoint.places.get(name) for name in first]
    number = {path: at for at, path in enumerate(checkpoint.files)}
    return Source(
        checkpoint.label,
        checkpoint.folder,
        checkpoint.files,
        checkpoint.originals,
        np.array([number[place.file] if place else NOWHERE for place in places]),
        np.array([place.offset if place else NOWHERE for place in places]),
        {
            at: place.dtype
            for at, (place, model) in enumerate(zip(places, first.values(), strict=True))
            if place is not None and place.dtype != model.dtype
        },
        checkpoint.stamps,
        says,
        checkpoint.dropped,
        tuple(name for name, place in checkpoint.places.items() if place.offset == NOWHERE),
    )


def with_dtypes(source: Source, first: Mapping[str, TensorPlace], dtypes: Sequence[str]) -> Source:
    """A source of :func:`source_of` with its dtypes where they are not the given ones."""
    own = {at: source.dtypes.get(at, place.dtype) for at, place in enumerate(first.values())}
    return replace(source, dtypes={at: dtype for at, dtype in own.items() if dtype != dtypes[at]})
