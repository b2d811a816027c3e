"""Photometric distortion as mmsegmentation 0.x has it (after SSD's), and bilateral filtering.

Each photometric step is a look-up table, so a whole distortion is one table, at most one trip to
HSV and back, and one more table.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError

Image = NDArray[np.uint8]

# OpenCV's 8-bit hue is in units of two degrees.
HUES = 180

SIGMA = 75.0
DIAMETERS = (1, 14)
# Given 0, OpenCV derives the diameter 225 from sigma: such an image costs as much as several
# hundred others and looks washed out. The paper's runs drew it once in 15 times.
PAPER_CODE_DIAMETERS = (0, 14)

_VALUES = np.arange(256, dtype=np.float32)


@dataclass(frozen=True)
class PhotometricDraws:
    """One distortion: grey levels to add, factors, hues to turn; ``None`` leaves a step out.

    ``contrast_first`` applies the contrast before saturation and hue instead of after them.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_first: bool = True


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
    """Apply one distortion to an RGB image (H, W, 3), uint8; the result is uint8 as well."""
    before, in_hsv, after = _tables(draws)
    if before is not None:
        image = cv2.LUT(image, before)
    if in_hsv:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        # Half the time of one look-up with a table per channel.
        for channel, table in in_hsv:
            cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if after is not None:
        image = cv2.LUT(image, after)
    return image


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
    """Smooth an RGB image (H, W, 3), uint8, with probability ``p``, keeping its edges.

    The diameter is drawn from 1..14 pixels, or 0..14 with ``paper_code``, unless it is given.
    """

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
