"""Rows of the augmentation, on smooth random images."""

import random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.runner import Pair, row
from revt_hf.data.augment.mixing import GeneratedImages
from revt_hf.data.augment.pixmix import PixMixDraws, apply_pixmix, draw_pixmix
from revt_hf.data.augment.transforms import (
    DIAMETERS,
    HUES,
    PAPER_CODE_DIAMETERS,
    SIGMA,
    PhotometricDraws,
    apply_photometric,
    draw_photometric,
    is_balanced,
)
from revt_hf.data.label_space import IGNORE_INDEX

RGB = NDArray[np.uint8]
SIDE = 512
SAMPLES = 12


def scene(side: int = SIDE) -> RGB:
    """An image (side, side, 3), uint8, with gradients, edges and some noise."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = cv2.resize(blocks, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    image += rng.integers(-8, 9, image.shape, dtype=np.int16)
    return np.clip(image, 0, 255).astype(np.uint8)


def largest_difference(first: list[Any], second: list[Any]) -> float:
    """The largest absolute difference of two lists of arrays."""
    pairs = zip(first, second, strict=True)
    return max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in pairs)


def plain_photometric(image: RGB, draws: PhotometricDraws) -> RGB:
    """Each step on its own, in numpy, with a trip to HSV for saturation and one for hue."""

    def scaled(values: RGB, factor: float, offset: float = 0.0) -> RGB:
        return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)

    if draws.brightness is not None:
        image = scaled(image, 1, draws.brightness)
    if draws.contrast is not None and draws.contrast_first:
        image = scaled(image, draws.contrast)
    if draws.saturation is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = scaled(hsv[..., 1], draws.saturation)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if draws.hue is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + draws.hue) % HUES
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if draws.contrast is not None and not draws.contrast_first:
        image = scaled(image, draws.contrast)
    return image


def plain_pixmix(
    image: RGB, draws: PixMixDraws, mixing: RGB, dtype: type = np.float64
) -> NDArray[Any]:
    """The paper's formulas on 0..1, as they are written; distorted copies step by step."""

    def copy(distortion: PhotometricDraws | None, otherwise: RGB) -> NDArray[Any]:
        source = otherwise if distortion is None else plain_photometric(image, distortion)
        return source.astype(dtype) / 255

    mixed = copy(draws.start, image)
    for step in draws.rounds:
        operand = copy(step.operand, mixing)
        if step.operation == "add":
            mixed = (step.a * (mixed * 2 - 1) + step.b * (operand * 2 - 1) + 1) / 2
        else:
            mixed = (mixed * 2) ** step.a * np.maximum(operand * 2, dtype(1e-37)) ** step.b / 2
        mixed = np.clip(mixed, 0, 1)
    return (mixed * 255).astype(np.float32)


def _rounds_alike(draws: PixMixDraws) -> bool:
    """Four rounds, and no copy that the plain way takes to HSV twice, which rounds once more."""
    copies = [draws.start, *(step.operand for step in draws.rounds)]
    twice = any(c is not None and None not in (c.saturation, c.hue) for c in copies)
    return len(draws.rounds) == 4 and not twice


def _pixmix(dtype: type) -> Pair:
    image = scene()
    mixing = GeneratedImages().draw(SIDE, SIDE, random.Random(0))
    drawn = (draw_pixmix(random.Random(seed), 4, 3.0) for seed in range(1000))
    draws = [d for d in drawn if _rounds_alike(d)][:SAMPLES]
    # Only every 16th pixel is kept: holding all results would measure the system's allocator.
    kept = (slice(None, None, 16), slice(None, None, 16))
    return Pair(
        peer=lambda: [plain_pixmix(image, d, mixing, dtype)[kept].copy() for d in draws],
        ours=lambda: [apply_pixmix(image, d, mixing)[kept].copy() for d in draws],
        difference=largest_difference,
    )


@row("pixmix", peer="plain numpy (float64)", goal=4.0, tolerance=1.0)
def pixmix() -> Pair:
    """Four rounds at 512x512, in the precision that ``image / 255`` has, as in the original."""
    return _pixmix(np.float64)


@row("pixmix-float32", peer="plain numpy in float32", goal=2.5, tolerance=1.0)
def pixmix_float32() -> Pair:
    """The same against a careful peer."""
    return _pixmix(np.float32)


@row("photometric", peer="step by step, two trips to HSV", goal=1.5, tolerance=1.0)
def photometric() -> Pair:
    """Distorting 512x512. The second trip to HSV rounds once more: the mean difference counts."""
    image = scene()
    draws = [draw_photometric(random.Random(seed)) for seed in range(SAMPLES)]
    return Pair(
        peer=lambda: [plain_photometric(image, d) for d in draws],
        ours=lambda: [apply_photometric(image, d) for d in draws],
        difference=lambda first, second: float(
            np.mean([np.abs(a.astype(int) - b) for a, b in zip(first, second, strict=True)])
        ),
    )


@row("bilateral", peer="diameters 0..14 as published", goal=20.0, repeats=1)
def bilateral() -> Pair:
    """Fifteen filtered images each: every published diameter once, and 1..14 with 7 twice.

    Diameter 0 takes 10 s and more at 512x512, so both sides filter 128x128; the cost of a pixel
    does not depend on the image's size. The difference is that of the diameters both sides use.
    """
    image = scene(128)

    def filtered(diameters: list[int]) -> list[RGB]:
        return [cv2.bilateralFilter(image, d, SIGMA, SIGMA) for d in diameters]

    low, high = DIAMETERS
    paper_code = list(range(PAPER_CODE_DIAMETERS[0], PAPER_CODE_DIAMETERS[1] + 1))
    return Pair(
        peer=lambda: filtered(paper_code),
        ours=lambda: filtered([7, *range(low, high + 1)]),
        difference=lambda first, second: largest_difference(first[1:], second[1:]),
    )


@row("crop-search", peer="np.unique", goal=4.0)
def crop_search() -> Pair:
    """Whether a 512x512 window of a label has several classes and none that dominates."""
    label = scene(1024)[:, :, 0] // 13
    label[::7] = IGNORE_INDEX
    windows = [label[i * 40 : i * 40 + SIDE, i * 30 : i * 30 + SIDE] for i in range(SAMPLES)]

    def by_unique(window: RGB) -> bool:
        classes, counts = np.unique(window, return_counts=True)
        counts = counts[classes != IGNORE_INDEX]
        return len(counts) > 1 and counts.max() / counts.sum() < 0.1

    return Pair(
        peer=lambda: [by_unique(window) for window in windows],
        ours=lambda: [is_balanced(window, 0.1) for window in windows],
        difference=lambda first, second: float(first != second),
    )
