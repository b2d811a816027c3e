"""Images that a network cannot take, found before it runs."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.decoding import image_size
from revt_hf.evaluation.class_maps import Size
from revt_hf.evaluation.predictor import network_sizes

_READERS = 8


def minimum_side(models: Iterable[Any]) -> int:
    """The smallest side of SegFormers' inputs in pixels: 29 for all sizes B0..B5.

    Each stage has to leave as many rows and columns as its attention reads at once.

    Args:
        models: whose ``config`` has ``patch_sizes``, ``strides`` and ``sr_ratios``.
    """
    smallest = 1
    for model in models:
        config, needed = model.config, 1
        stages = zip(config.patch_sizes, config.strides, config.sr_ratios, strict=True)
        for patch, stride, reduction in reversed(list(stages)):
            needed = (max(needed, reduction) - 1) * stride + patch - 2 * (patch // 2)
        smallest = max(smallest, needed)
    return smallest


def too_small(size: Size, protocol: Protocol, minimum: int) -> str | None:
    """Why a network cannot take an image of this (height, width); None if it can.

    Args:
        size: of the image.
        protocol: decides what reaches the network.
        minimum: see :func:`minimum_side`.
    """
    for height, width in network_sizes(size, protocol):
        window = protocol.window or max(height, width)
        sides = min(height, window), min(width, window)
        if min(sides) < minimum:
            return (
                f"{size[1]}x{size[0]} pixels give the network an input of {sides[1]}x{sides[0]}, "
                f"and it needs at least {minimum} on each side"
            )
    return None


def check_sizes(rows: Any, name: str, protocol: Protocol, minimum: int) -> None:
    """Refuse a split with an image that a network cannot take; reads the starts of files only.

    Args:
        rows: as :func:`revt_hf.data.domains.load_domain` gives.
        name: what the error calls the split.
        protocol: decides what reaches the network.
        minimum: see :func:`minimum_side`.

    Raises:
        UserError: an image is too small.
    """
    known: dict[Size, str | None] = {}
    for file, size in sizes_of(rows):
        if size not in known:
            known[size] = too_small(size, protocol, minimum)
        if known[size]:
            raise UserError(
                f"{name}: {file}: {known[size]}: leave it out or choose another max_size"
            )


def sizes_of(rows: Any) -> Iterator[tuple[str, Size]]:
    """File (or name) and (height, width) of a loaded split's images, as far as they can be read."""
    if not isinstance(rows, datasets.Dataset):
        return
    cells = rows.with_format(None).select_columns(["image", "name"])
    files = [row["image"]["path"] or row["name"] for row in cells]
    with ThreadPoolExecutor(_READERS) as pool:
        for file, size in zip(files, pool.map(_size, cells), strict=True):
            if size is not None:
                yield file, size


def _size(row: dict[str, Any]) -> Size | None:
    return image_size(row["image"])
