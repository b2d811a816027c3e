"""Images to score: loaded, checked against the networks' smallest input, and batched."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from typing import Any

import datasets
from torch.utils.data import DataLoader, Subset

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.core.resources import one_thread, worker_count
from revt_hf.data.class_mapping import ClassMapping
from revt_hf.data.decoding import image_size
from revt_hf.data.domains import domain_label, load_spec, space_of_spec
from revt_hf.data.label_space import IGNORE_INDEX, standard_order
from revt_hf.evaluation.class_maps import Size
from revt_hf.evaluation.predictor import Segmenter, network_sizes
from revt_hf.evaluation.result import SplitSpec
from revt_hf.models.networks import InputLimits

# With ``image`` (H, W, 3) and ``label`` (H, W), uint8; labels are train ids and 255.
Row = dict[str, Any]

_READERS = 8


def load_labelled(spec: DomainSpec, split: str) -> Any:
    images = load_spec(spec, split)
    check_labelled(images, domain_label(spec, split))
    return images


def check_labelled(images: Any, name: str) -> None:
    """Refuse images without a single labelled pixel; reads up to the first that has one."""
    labels = (images[index]["label"] for index in range(len(images)))
    if not any((label != IGNORE_INDEX).any() for label in labels):
        raise UserError(
            f"no labelled pixel in {name}: all labels are {IGNORE_INDEX} (ignored), check its "
            "label encoding with revt data verify"
        )


def in_classes_of(
    splits: Sequence[SplitSpec], segmenters: Mapping[str, Segmenter], mapping: ClassMapping | None
) -> dict[str, Segmenter]:
    """Segmenters of the splits' classes; without a mapping they have to be the models' own."""
    found = dict(segmenters)
    if mapping is not None:
        domain = standard_order(space_of_spec(splits[0].spec))
        found = {name: one.mapped(mapping, domain) for name, one in found.items()}
    space = next(iter(found.values())).space
    for split in splits:
        try:
            space.rows(space_of_spec(split.spec).classes, split.label)
        except UserError as error:
            what = "map them by revt evaluate --map" if mapping is None else "score these apart"
            raise UserError(f"{error}; {what}") from error
    return found


def image_batches(
    images: Any, indices: Sequence[int], protocol: Protocol, batch_size: int, workers: int
) -> Iterator[list[Row]]:
    rows = DataLoader(
        Subset(images, indices),
        batch_size=None,
        num_workers=worker_count(workers, len(indices)),
        collate_fn=_unchanged,
        worker_init_fn=one_thread,
    )
    yield from same_size_batches(rows, protocol, batch_size)


def same_size_batches(
    rows: Iterable[Row], protocol: Protocol, batch_size: int
) -> Iterator[list[Row]]:
    """Consecutive rows of one network input size; a full batch does not wait for the next row."""

    def sizes(row: Row) -> tuple[Size, ...]:
        height, width = row["image"].shape[:2]
        return network_sizes((height, width), protocol)

    for _, group in groupby(rows, sizes):
        while batch := list(islice(group, batch_size)):
            yield batch


def _unchanged(row: Any) -> Any:
    return row


def too_small(size: Size, protocol: Protocol, limits: InputLimits) -> str | None:
    """Why a network cannot take an image of this (height, width); None if it can."""
    if limits.image not in (None, size):
        made = f"{limits.image[1]}x{limits.image[0]}"
        return f"{size[1]}x{size[0]} pixels, and the graph makes class maps of {made} only"
    for height, width in network_sizes(size, protocol):
        window = protocol.window or max(height, width)
        sides = min(height, window), min(width, window)
        shown = f"{size[1]}x{size[0]} pixels give the network an input of {sides[1]}x{sides[0]}"
        if limits.exact not in (None, sides):
            needed = f"{limits.exact[1]}x{limits.exact[0]}"
            return f"{shown}, and the graph takes {needed} only (revt export --dynamic takes any)"
        if limits.whole and sides != (height, width):
            return f"{shown}, and the graph makes class maps of whole images, without windows"
        if limits.squares and (sides[0] != sides[1] or limits.side not in (None, sides[0])):
            needed = f" of {limits.side} pixels" if limits.side else ""
            gives = "evaluation.window or --window gives them"
            return f"{shown}, and it takes squares{needed} only ({gives})"
        if min(sides) < limits.minimum:
            return f"{shown}, and it needs at least {limits.minimum} on each side"
    return None


def check_sizes(rows: Any, name: str, protocol: Protocol, limits: InputLimits) -> None:
    """Refuse a split with an image that a network cannot take; reads only image headers."""
    known: dict[Size, str | None] = {}
    for file, size in sizes_of(rows):
        if size not in known:
            known[size] = too_small(size, protocol, limits)
        if known[size]:
            raise UserError(
                f"{name}: {file}: {known[size]}: leave it out or choose another max size"
            )


def sizes_of(rows: Any) -> Iterator[tuple[str, Size]]:
    """File (or name) and (height, width) of a loaded split's images, where they can be read."""
    if not isinstance(rows, datasets.Dataset):
        return
    cells = rows.with_format(None).select_columns(["image", "name"])
    files = [row["image"]["path"] or row["name"] for row in cells]
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = pool.map(image_size, (row["image"] for row in cells))
        for file, size in zip(files, sizes, strict=True):
            if size is not None:
                yield file, size
