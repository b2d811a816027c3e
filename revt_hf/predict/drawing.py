"""Images of class maps: overlays with a legend, where models differ, side by side."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.data.labels import CLASSES
from revt_hf.results.sheets import legend_strip, title_strip

_NARROWEST = 240
_DIMMED = 0.45
_DIFFERING = np.array((255, 64, 32), dtype=np.float32)


def present(maps: Iterable[NDArray[np.uint8]]) -> list[str]:
    """Names of the classes in class maps, in the order of train ids."""
    found = np.unique(np.concatenate([np.unique(classes) for classes in maps]))
    return [CLASSES[train_id] for train_id in found]


def with_legend(image: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
    """An image (H, W, 3), uint8, RGB, as it is, and the colours of classes below it.

    Images narrower than 240 pixels get white to their right: names need the room.
    """
    width = max(image.shape[1], _NARROWEST)
    strip = legend_strip(classes, width)
    room = ((0, 0), (0, width - image.shape[1]), (0, 0))
    return np.concatenate((np.pad(image, room, constant_values=255), strip))


def disagreement(maps: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """How much class maps (H, W) of one image differ at each pixel.

    Returns:
        (H, W) float32: 0 where all agree, 1 where no two do; in between the share of those that
        are not in the majority.
    """
    votes = [sum((classes == other).astype(np.uint8) for other in maps) for classes in maps]
    others = len(maps) - np.max(votes, axis=0).astype(np.float32)
    return np.asarray(others / (len(maps) - 1), dtype=np.float32)


def difference_view(
    image: NDArray[np.uint8], disagreeing: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """An image, grey and dimmed, with red where models disagree.

    Args:
        image: (H, W, 3), uint8, RGB.
        disagreeing: (H, W), see :func:`disagreement`.

    Returns:
        (H, W, 3), uint8, RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * _DIMMED
    # What only few models see otherwise is to be seen, too.
    share = np.where(disagreeing > 0, 0.4 + 0.6 * disagreeing, 0)[..., None]
    return np.rint(grey[..., None] * (1 - share) + _DIFFERING * share).astype(np.uint8)


def side_by_side(images: Sequence[NDArray[np.uint8]], titles: Sequence[str]) -> NDArray[np.uint8]:
    """Images (H, W, 3), uint8, RGB, of one size in a row, a title above each."""
    strip = title_strip(titles, images[0].shape[1])
    return np.concatenate((strip, np.concatenate(images, axis=1)))
