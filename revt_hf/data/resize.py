"""Resize into a max size with the aspect ratio kept: the geometry of training and evaluation.

Rounding and factor follow ``mmcv.imrescale`` as the original's training and test pipelines use it.
"""

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError

Pixel = TypeVar("Pixel", bound=np.generic)


def fit_size(height: int, width: int, max_size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of an image scaled to fit a max size (width, height).

    The long side of the max size limits the image's long side; small images are enlarged.
    """
    if min(max_size) < 1:
        shown = f"max size {max_size[0]}x{max_size[1]}"
        raise UserError(f"{shown}: both sides must be at least 1 pixel")
    factor = min(max(max_size) / max(height, width), min(max_size) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_label_to_fit(
    label: NDArray[np.uint8], image_size: tuple[int, int], max_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Resize train ids (H, W), nearest, to the size that ``resize_to_fit`` gives their image.

    ``image_size`` is (height, width): 60 label maps of GTA5 do not have their image's size.
    """
    return _resized(label, fit_size(*image_size, max_size), cv2.INTER_NEAREST)


def resize_to_fit(
    image: NDArray[Pixel], max_size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR
) -> NDArray[Pixel]:
    """Resize an image (H, W, C) or a label (H, W) to ``fit_size``; the dtype stays."""
    return _resized(image, fit_size(image.shape[0], image.shape[1], max_size), interpolation)


def _resized(pixels: NDArray[Pixel], size: tuple[int, int], interpolation: int) -> NDArray[Pixel]:
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=interpolation), pixels.dtype)
