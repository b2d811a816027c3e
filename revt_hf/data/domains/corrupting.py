"""How an image is corrupted: eight kinds, five severities, drawn from the image's name.

Every kind is a chain of albumentations transforms whose parameters stand in :data:`PARAMETERS`,
one value a severity; what stays random (where a drop falls, which way a camera shakes) is drawn
from a seed, the kind and the image's name. The severity is no part of that: an image's drops
stay where they are and become more. The severities of noise, JPEG and contrast are ImageNet-C's
(Hendrycks and Dietterich, 2019), the others are ours.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["fog", "rain", "snow", "night", "motion_blur", "noise", "jpeg", "contrast"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERITIES = (1, 2, 3, 4, 5)

# Lengths are shares of the image's height, so that a severity means the same at any size;
# "drops" and "flakes" are albumentations' names: a quarter, a third, once and twice as many as the
# image has rows.
PARAMETERS: Mapping[Kind, Mapping[str, tuple[Any, ...]]] = {
    "fog": {"transmission": (0.75, 0.6, 0.45, 0.3, 0.2)},
    "rain": {
        "drops": ("drizzle", "default", "heavy", "heavy", "torrential"),
        "length": (0.04, 0.05, 0.06, 0.08, 0.1),
        "brightness": (0.95, 0.9, 0.85, 0.75, 0.65),
    },
    "snow": {
        "flakes": ("drizzle", "default", "heavy", "torrential", "torrential"),
        "snow_point": (0.1, 0.2, 0.3, 0.4, 0.5),
        "bleach": (1.2, 1.4, 1.6, 1.8, 2.0),
    },
    "night": {
        "gamma": (1.2, 1.4, 1.6, 1.85, 2.1),
        "exposure": (0.85, 0.72, 0.6, 0.5, 0.4),
        "noise": (0.1, 0.15, 0.2, 0.25, 0.3),
    },
    "motion_blur": {"length": (0.02, 0.035, 0.05, 0.07, 0.1)},
    "noise": {"std": (0.08, 0.12, 0.18, 0.26, 0.38)},
    "jpeg": {"quality": (25, 18, 15, 10, 7)},
    "contrast": {"factor": (0.4, 0.3, 0.2, 0.1, 0.05)},
}

# Of fog, as a share of white.
_AIRLIGHT = 0.8


def corrupt(
    image: NDArray[np.uint8], name: str, kind: Kind, severity: int, seed: int = 0
) -> NDArray[np.uint8]:
    """Corrupt an image; the same image is always corrupted in the same way.

    Args:
        image: (H, W, 3), uint8, RGB.
        name: of the image; with ``seed`` and ``kind`` it decides what is random.
        kind: see :data:`KINDS`.
        severity: 1 to 5.
        seed: for another draw.

    Returns:
        (H, W, 3), uint8, RGB; no pixel moves, so that labels stay right.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    values = {key: column[severity - 1] for key, column in PARAMETERS[kind].items()}
    pipeline = albumentations.Compose(_CHAINS[kind](albumentations, image.shape[0], **values))
    digest = hashlib.sha256(f"{seed}/{kind}/{name}".encode()).digest()
    pipeline.set_random_seed(int.from_bytes(digest[:4]))
    corrupted: NDArray[np.uint8] = pipeline(image=np.ascontiguousarray(image))["image"]
    return corrupted


def _scaled(factor: float, offset: float, relative_to_mean: bool = False) -> dict[str, Any]:
    """Settings of RandomBrightnessContrast for ``factor`` x image + ``offset``."""
    return {
        "contrast_limit": (factor - 1, factor - 1),
        "brightness_limit": (offset, offset),
        "brightness_by_max": not relative_to_mean,
        "p": 1,
    }


def _fog(A: Any, height: int, transmission: float) -> list[Any]:
    # Koschmieder's law at a single distance. RandomFog draws discs instead, slowly.
    offset = (1 - transmission) * _AIRLIGHT
    return [A.RandomBrightnessContrast(**_scaled(transmission, offset))]


def _rain(A: Any, height: int, drops: str, length: float, brightness: float) -> list[Any]:
    return [
        A.RandomRain(
            slant_range=(-10, 10),
            drop_length=max(1, round(length * height)),
            drop_width=max(1, round(0.003 * height)),
            blur_value=3,
            brightness_coefficient=brightness,
            rain_type=drops,
            p=1,
        )
    ]


def _snow(A: Any, height: int, flakes: str, snow_point: float, bleach: float) -> list[Any]:
    return [
        A.RandomSnow(
            snow_point_range=(snow_point, snow_point), brightness_coeff=bleach, method="bleach", p=1
        ),
        A.RandomRain(
            slant_range=(-2, 2),
            drop_length=max(1, round(0.006 * height)),
            drop_width=max(1, round(0.006 * height)),
            drop_color=(255, 255, 255),
            blur_value=3,
            brightness_coefficient=1,
            rain_type=flakes,
            p=1,
        ),
    ]


def _night(A: Any, height: int, gamma: float, exposure: float, noise: float) -> list[Any]:
    return [
        A.RandomGamma(gamma_limit=(100 * gamma, 100 * gamma), p=1),
        A.RandomBrightnessContrast(**_scaled(exposure, 0)),
        A.ISONoise(color_shift=(0.01, 0.01), intensity=(noise, noise), p=1),
    ]


def _motion_blur(A: Any, height: int, length: float) -> list[Any]:
    size = max(3, round(length * height) | 1)
    return [A.MotionBlur(blur_limit=(size, size), allow_shifted=False, p=1)]


def _noise(A: Any, height: int, std: float) -> list[Any]:
    return [A.GaussNoise(std_range=(std, std), p=1)]


def _jpeg(A: Any, height: int, quality: int) -> list[Any]:
    return [A.ImageCompression(quality_range=(quality, quality), p=1)]


def _contrast(A: Any, height: int, factor: float) -> list[Any]:
    return [A.RandomBrightnessContrast(**_scaled(factor, 1 - factor, relative_to_mean=True))]


_CHAINS: Mapping[Kind, Callable[..., list[Any]]] = {
    "fog": _fog,
    "rain": _rain,
    "snow": _snow,
    "night": _night,
    "motion_blur": _motion_blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "contrast": _contrast,
}
