"""Geometric steps: resize to a max size, and a crop that no single class dominates."""

from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.labels import IGNORE_INDEX
from revt_hf.data.resize import resize_label_to_fit, resize_to_fit

TRIES = 10
# mmsegmentation's RandomCrop checks ten windows and draws another one after the tenth.
PAPER_CODE_TRIES = 11


class BoundedResize(A.DualTransform):
    """Resize an image (bilinear) to fit (width, height), and its label (nearest) to the same size.

    A label whose size differs from its image's (60 label maps of GTA) ends up aligned with it.
    """

    def __init__(self, max_size: tuple[int, int]) -> None:
        super().__init__(p=1.0)
        self.max_size = max_size

    def apply(self, img: NDArray[np.generic], **params: Any) -> NDArray[np.generic]:
        return resize_to_fit(img, self.max_size)

    def apply_to_mask(self, mask: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        return resize_label_to_fit(mask, params["shape"][:2], self.max_size)


def is_balanced(label: NDArray[np.uint8], cat_max_ratio: float) -> bool:
    """Whether a label (H, W), uint8, has several classes, the largest below this share.

    Ignored pixels do not count. Rule: mmsegmentation's ``RandomCrop``.
    """
    # OpenCV 4 gives (256, 1), OpenCV 5 (256,).
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).reshape(-1)[:IGNORE_INDEX]
    largest, labelled = float(counts.max()), float(counts.sum())
    return largest < labelled and largest / labelled < cat_max_ratio


class RandomCropMaxRatio(A.DualTransform):
    """Crop image and label to the first of ``tries`` random windows that is balanced, or the last.

    ``size`` is a side or (height, width); a side shorter than the crop stays whole.
    """

    def __init__(
        self, size: int | tuple[int, int], cat_max_ratio: float = 0.75, tries: int = TRIES
    ) -> None:
        super().__init__(p=1.0)
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width, tries) < 1:
            raise UserError(f"crop {height}x{width}, {tries} tries: all must be at least 1")
        self.size = (height, width)
        self.cat_max_ratio = cat_max_ratio
        self.tries = tries

    @property
    def targets_as_params(self) -> list[str]:
        return ["mask"]

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        window = self._draw(*params["shape"][:2])
        for _ in range(self.tries - 1):
            if self.cat_max_ratio >= 1 or is_balanced(data["mask"][window], self.cat_max_ratio):
                break
            window = self._draw(*params["shape"][:2])
        return {"window": window}

    def _draw(self, height: int, width: int) -> tuple[slice, slice]:
        top = self.py_random.randint(0, max(height - self.size[0], 0))
        left = self.py_random.randint(0, max(width - self.size[1], 0))
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def apply(
        self, img: NDArray[np.generic], window: tuple[slice, slice], **params: Any
    ) -> NDArray[np.generic]:
        # Of the label as well: DualTransform applies this to masks too.
        return img[window]
