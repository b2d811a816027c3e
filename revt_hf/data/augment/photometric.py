"""Photometric distortion: brightness, contrast, saturation, hue.

Steps and ranges: ``PhotoMetricDistortion`` of mmsegmentation 0.x (after SSD's), as the original's
training pipelines use it. Every step on its own is a look-up table, so a whole distortion is one
table, at most one trip to HSV and back, and one more table.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

BRIGHTNESS = 32.0
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = 18
# OpenCV's 8-bit hue is in units of two degrees.
HUES = 180

_VALUES = np.arange(256, dtype=np.float32)


def _table(values: NDArray[Any]) -> Image:
    """Fractions are cut off, not rounded, as in the original."""
    return np.clip(values, 0, 255).astype(np.uint8)


_TABLES: dict[str, Callable[[float], Image]] = {
    "brightness": lambda delta: _table(_VALUES + delta),
    "contrast": lambda factor: _table(_VALUES * factor),
    "saturation": lambda factor: _table(_VALUES * factor),
    "hue": lambda shift: _table((_VALUES + int(shift)) % HUES),
}


def brightness(image: Image, delta: float) -> Image:
    """Add ``delta`` (grey levels) to an RGB image (H, W, 3), uint8, clipped to 0..255."""
    return np.asarray(cv2.LUT(image, _TABLES["brightness"](delta)))


def contrast(image: Image, factor: float) -> Image:
    """Multiply an RGB image (H, W, 3), uint8, by ``factor``, clipped to 0..255."""
    return np.asarray(cv2.LUT(image, _TABLES["contrast"](factor)))


def saturation(image: Image, factor: float) -> Image:
    """Multiply the HSV saturation of an RGB image (H, W, 3), uint8, clipped to 0..255."""
    return apply_photometric(image, PhotometricDraws(saturation=factor))


def hue(image: Image, shift: int) -> Image:
    """Turn the hue of an RGB image (H, W, 3), uint8, by ``shift`` of OpenCV's 180 hues."""
    return apply_photometric(image, PhotometricDraws(hue=shift))


@dataclass(frozen=True)
class PhotometricDraws:
    """What one distortion does; ``None`` leaves a step out."""

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_first: bool = True


def draw_photometric(rng: random.Random) -> PhotometricDraws:
    """Draw one distortion: each step with probability 0.5, contrast before or after HSV by coin."""

    def coin() -> bool:
        return rng.random() < 0.5

    return PhotometricDraws(
        brightness=rng.uniform(-BRIGHTNESS, BRIGHTNESS) if coin() else None,
        contrast_first=coin(),
        contrast=rng.uniform(*CONTRAST) if coin() else None,
        saturation=rng.uniform(*SATURATION) if coin() else None,
        hue=rng.randint(-HUE, HUE) if coin() else None,
    )


def _chain(draws: PhotometricDraws, steps: tuple[str, ...]) -> Image | None:
    """The table of some steps one after the other, or ``None`` if none was drawn."""
    tables = [_TABLES[step](v) for step in steps if (v := getattr(draws, step)) is not None]
    if not tables:
        return None
    chained = tables[0]
    for table in tables[1:]:
        chained = table[chained]
    return chained


@dataclass(frozen=True)
class _Tables:
    """Tables before HSV, of single HSV channels, and after it."""

    before: Image | None
    in_hsv: tuple[tuple[int, Image], ...]
    after: Image | None


# PixMix distorts an image strip by strip.
@lru_cache(maxsize=64)
def _compile(draws: PhotometricDraws) -> _Tables:
    early = ("brightness", "contrast") if draws.contrast_first else ("brightness",)
    late = () if draws.contrast_first else ("contrast",)
    channels = enumerate(_chain(draws, (step,)) for step in ("hue", "saturation"))
    in_hsv = tuple((channel, table) for channel, table in channels if table is not None)
    if not in_hsv:
        return _Tables(_chain(draws, early + late), (), None)
    return _Tables(_chain(draws, early), in_hsv, _chain(draws, late))


def apply_photometric(image: Image, draws: PhotometricDraws) -> Image:
    """Apply one distortion to an RGB image (H, W, 3), uint8; the result is uint8 as well.

    The order is brightness, [contrast], saturation and hue in HSV, [contrast].
    """
    tables = _compile(draws)
    if tables.before is not None:
        image = cv2.LUT(image, tables.before)
    if tables.in_hsv:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        # Half the time of one look-up with a table per channel.
        for channel, table in tables.in_hsv:
            cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if tables.after is not None:
        image = cv2.LUT(image, tables.after)
    return image


class PhotoMetricDistortion(A.ImageOnlyTransform):
    """Distort an RGB image (H, W, 3), uint8, by what ``draw_photometric`` draws."""

    def __init__(self) -> None:
        super().__init__(p=1.0)

    def get_params(self) -> dict[str, Any]:
        return {"draws": draw_photometric(self.py_random)}

    def apply(self, img: Image, draws: PhotometricDraws, **params: Any) -> Image:
        return apply_photometric(img, draws)
