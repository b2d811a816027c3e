"""Resizing into a bound with the ratio kept: the geometry of training and of evaluation.

Rounding and factor follow ``mmcv.imrescale`` as the original's training and test pipelines use it.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.errors import UserError


def bounded_size(height: int, width: int, bound: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of a picture once it fits the bound; small pictures are enlarged.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        bound: (width, height); its long side bounds the picture's long side, whichever way the
            picture lies.

    Raises:
        UserError: a side of the bound is not positive.
    """
    if min(bound) < 1:
        raise UserError(f"resize bound {bound[0]}x{bound[1]}: both sides must be at least 1 pixel")
    factor = min(max(bound) / max(height, width), min(bound) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def bounded_label(
    label: NDArray[np.uint8], picture_size: tuple[int, int], bound: tuple[int, int]
) -> NDArray[np.uint8]:
    """Resize a label (H, W), nearest, to where its picture's ``bounded_resize`` ends up.

    Args:
        label: train ids; its size may differ from its picture's (60 label maps of GTA).
        picture_size: (height, width) of the picture.
        bound: (width, height), see ``bounded_size``.

    Raises:
        UserError: a side of the bound is not positive.
    """
    height, width = bounded_size(picture_size[0], picture_size[1], bound)
    if label.shape[:2] == (height, width):
        return label
    resized = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.uint8)


def bounded_resize(
    picture: NDArray[np.generic], bound: tuple[int, int], interpolation: int = cv2.INTER_LINEAR
) -> NDArray[np.generic]:
    """Resize a picture (H, W, C) or a label (H, W) to ``bounded_size``; the dtype stays.

    Args:
        picture: any dtype that OpenCV resizes (uint8, float32).
        bound: (width, height), see ``bounded_size``.
        interpolation: an OpenCV flag; ``cv2.INTER_NEAREST`` for labels.

    Raises:
        UserError: a side of the bound is not positive.
    """
    height, width = bounded_size(picture.shape[0], picture.shape[1], bound)
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(cv2.resize(picture, (width, height), interpolation=interpolation))
