"""Resize, balanced crop, photometric distortion as in mmsegmentation 0.x, bilateral filtering."""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.label_space import IGNORE_INDEX
from revt_hf.data.reading import class_pixels, resize_label_to_fit, resize_to_fit

Image = NDArray[np.uint8]
Window = tuple[slice, slice]

TRIES = 10
# mmsegmentation's RandomCrop checks ten windows and draws another one after the tenth.
PAPER_CODE_TRIES = 11

# The key of the class that a crop should hold, and how often DAFormer draws one without it again.
WANTED, WANTED_TRIES = "wanted", 10

# OpenCV's 8-bit hue is in units of two degrees.
HUES = 180
_VALUES = np.arange(256, dtype=np.float32)

SIGMA = 75.0
DIAMETERS = (1, 14)
# Given 0, OpenCV derives the diameter 225 from sigma: such an image costs as much as several
# hundred others and looks washed out. The paper's runs drew it once in 15 times.
PAPER_CODE_DIAMETERS = (0, 14)


class BoundedResize(A.DualTransform):
    """Resize an image (bilinear) to fit (width, height), and its label (nearest) like it."""

    def __init__(self, max_size: tuple[int, int]) -> None:
        super().__init__(p=1.0)
        self.max_size = max_size

    def apply(self, img: NDArray[np.generic], **params: Any) -> NDArray[np.generic]:
        return resize_to_fit(img, self.max_size)

    def apply_to_mask(self, mask: Image, **params: Any) -> Image:
        return resize_label_to_fit(mask, params["shape"][:2], self.max_size)


def is_balanced(label: Image, cat_max_ratio: float) -> bool:
    """Whether a label has several classes, the largest below this share (mmsegmentation's rule)."""
    counts = class_pixels(label)[:IGNORE_INDEX]
    largest, labelled = float(counts.max()), float(counts.sum())
    return largest < labelled and largest / labelled < cat_max_ratio


class RandomCropMaxRatio(A.DualTransform):
    """Crop to the first balanced of some random windows, or the last; short sides stay whole.

    Called with ``wanted``, a class id and a number of pixels, it draws such windows until one has
    as many pixels of the class, or ten more were drawn.
    """

    def __init__(
        self, size: int | tuple[int, int], cat_max_ratio: float = 0.75, tries: int = TRIES
    ) -> None:
        super().__init__(p=1.0)
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width, tries) < 1:
            raise UserError(f"crop {height}x{width}, {tries} tries: all must be at least 1")
        self.size, self.cat_max_ratio, self.tries = (height, width), cat_max_ratio, tries

    @property
    def targets_as_params(self) -> list[str]:
        return ["mask"]

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        label, size = data["mask"], params["shape"][:2]
        window = self._draw_balanced(label, *size)
        if WANTED in data:
            wanted, pixels = data[WANTED]
            for _ in range(WANTED_TRIES):
                if np.count_nonzero(label[window] == wanted) >= pixels:
                    break
                window = self._draw_balanced(label, *size)
        return {"window": window}

    def _draw_balanced(self, label: Image, height: int, width: int) -> Window:
        window = self._draw(height, width)
        for _ in range(self.tries - 1):
            if self.cat_max_ratio >= 1 or is_balanced(label[window], self.cat_max_ratio):
                break
            window = self._draw(height, width)
        return window

    def _draw(self, height: int, width: int) -> Window:
        top = self.py_random.randint(0, max(height - self.size[0], 0))
        left = self.py_random.randint(0, max(width - self.size[1], 0))
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def apply(self, img: NDArray[np.generic], window: Window, **params: Any) -> NDArray[np.generic]:
        # Of the label as well: DualTransform applies this to masks too.
        return img[window]


@dataclass(frozen=True)
class PhotometricDraws:
    """One distortion: grey levels to add, factors, hues to turn; ``None`` leaves a step out."""

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_first: bool = True  # before saturation and hue, not after them


def draw_photometric(rng: random.Random) -> PhotometricDraws:
    """Draw one distortion: each step with probability 0.5, contrast before or after HSV by coin."""
    return PhotometricDraws(
        brightness=rng.uniform(-32.0, 32.0) if rng.random() < 0.5 else None,
        contrast_first=rng.random() < 0.5,
        contrast=rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None,
        saturation=rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None,
        hue=rng.randint(-18, 18) if rng.random() < 0.5 else None,
    )


def apply_photometric(image: Image, draws: PhotometricDraws) -> Image:
    """Apply one distortion to an RGB image (H, W, 3): a look-up table, HSV and back, one more."""
    before, in_hsv, after = _tables(draws)
    if before is not None:
        image = cv2.LUT(image, before)
    if in_hsv:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        # Half the time of one look-up with a table per channel.
        for channel, table in in_hsv:
            cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if after is None else cv2.LUT(image, after)


# PixMix distorts an image strip by strip.
@lru_cache(maxsize=64)
def _tables(draws: PhotometricDraws) -> tuple[Image | None, list[tuple[int, Image]], Image | None]:
    """The tables before HSV, of single HSV channels, and after HSV."""
    channels = enumerate(_chain(draws, step) for step in ("hue", "saturation"))
    in_hsv = [(channel, table) for channel, table in channels if table is not None]
    if draws.contrast_first or not in_hsv:
        return _chain(draws, "brightness", "contrast"), in_hsv, None
    return _chain(draws, "brightness"), in_hsv, _chain(draws, "contrast")


def _chain(draws: PhotometricDraws, *steps: str) -> Image | None:
    """The table of some steps one after the other; None if none was drawn."""
    chained = None
    for step in steps:
        value = getattr(draws, step)
        if value is None:
            continue
        if step == "brightness":
            values = _VALUES + value
        elif step == "hue":
            values = (_VALUES + int(value)) % HUES
        else:
            values = _VALUES * value
        # Fractions are cut off, not rounded, as in the original.
        table = np.clip(values, 0, 255).astype(np.uint8)
        chained = table if chained is None else table[chained]
    return chained


class PhotoMetricDistortion(A.ImageOnlyTransform):
    """Randomly change brightness, contrast, saturation and hue of an RGB image (uint8)."""

    def __init__(self) -> None:
        super().__init__(p=1.0)

    def get_params(self) -> dict[str, Any]:
        return {"draws": draw_photometric(self.py_random)}

    def apply(self, img: Image, draws: PhotometricDraws, **params: Any) -> Image:
        return apply_photometric(img, draws)


class BilateralFilter(A.ImageOnlyTransform):
    """Smooth an RGB image (H, W, 3), uint8, with probability ``p``, keeping its edges."""

    def __init__(
        self, diameter: tuple[int, int] | None = None, p: float = 0.5, paper_code: bool = False
    ) -> None:
        super().__init__(p=p)
        low, high = diameter or (PAPER_CODE_DIAMETERS if paper_code else DIAMETERS)
        if not 0 <= low <= high:
            raise UserError(f"bilateral diameter {low}..{high}: give 0 <= smallest <= largest")
        self.diameter = (low, high)

    def get_params(self) -> dict[str, Any]:
        return {"d": self.py_random.randint(*self.diameter)}

    def apply(self, img: Image, d: int, **params: Any) -> Image:
        return np.asarray(cv2.bilateralFilter(img, d, SIGMA, SIGMA))
