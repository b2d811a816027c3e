"""PixMix: mix an image, in a few rounds, with distorted copies of itself and with a fractal.

Hendrycks et al., "PixMix: Dreamlike Images Comprehensively Improve Safety Measures", CVPR 2022.
The ReVT paper's code differs from that paper; ``paper_code=True`` follows the code:

* powers are taken on the 0..255 scale, not on 0..1;
* 8-bit operands wrap modulo 256 when they are doubled (200 * 2 gives 144) and shifted;
* the mixing image enters as 0..1 (nearly black) and with its channels reversed.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.augment.mixing import MixingImages
from revt_hf.data.augment.transforms import PhotometricDraws, apply_photometric, draw_photometric

Image = NDArray[Any]  # uint8 or float32, 0..255
FloatImage = NDArray[np.float32]
Operation = Literal["add", "multiply"]

# The PixMix paper replaces zeros by this number so that their powers exist.
_TINY = 1e-37
# Logarithms of that number, and of 255 less a rounding error.
_LOG_MIN = float(np.log(_TINY))
_LOG_MAX = float(np.nextafter(np.float32(np.log(255)), np.float32(0)))
# Rows that are mixed at a time: float32 strips of this height stay in the processor's cache.
_STRIP = 64


def mix_add(x: Image, y: Image, a: float, b: float) -> FloatImage:
    """The paper's sum: images moved to -1..1, ``a * x + b * y``, moved back and clipped."""
    mixed = cv2.addWeighted(_float(x), a, _float(y), b, (1 - a - b) * 127.5)
    return np.clip(mixed, 0, 255, out=mixed)


def mix_multiply(x: Image, y: Image, a: float, b: float) -> FloatImage:
    """The paper's product: images on 0..2, ``x ** a * y ** b / 2`` and clipped.

    The power of a zero is 0 in ``x``, and that of 1e-37 in ``y``.
    """
    constant = np.log(127.5) + a * np.log(2 / 255)

    def weighted_log(values: NDArray[Any]) -> FloatImage:
        weighted = b * np.log(np.maximum(values * (2 / 255), _TINY)) + constant
        return np.asarray(weighted, dtype=np.float32)

    # A table of all values where there are 256.
    of_y = cv2.LUT(y, weighted_log(np.arange(256))) if y.dtype == np.uint8 else weighted_log(y)
    # Zeros, infinities and denormals are kept out: they make logarithm and exponential 30 times
    # slower, and bright or dark areas are full of them.
    logarithm = cv2.log(cv2.max(_float(x), _TINY))
    exponent = cv2.scaleAdd(logarithm, a, of_y)
    mixed = cv2.exp(np.clip(exponent, _LOG_MIN, _LOG_MAX, out=exponent))
    # Otherwise the zero placeholder in x would resurface in a later round.
    zero = x < 2 * _TINY
    if zero.any():
        mixed[zero] = 0
    return np.asarray(mixed)


def paper_code_add(x: Image, y: Image, a: float, b: float) -> FloatImage:
    """The sum of the paper's code: as :func:`mix_add` for float32, wrapping for uint8."""
    mixed = np.float32(a) * (x * 2 - 255) + np.float32(b) * (y * 2 - 255)
    return np.clip((mixed + 255) / 2, 0, 255).astype(np.float32)


def paper_code_multiply(x: Image, y: Image, a: float, b: float) -> FloatImage:
    """The product of the paper's code: :func:`mix_multiply` on 0..255, wrapping for uint8."""
    # A large power overflows to infinity, which the clipping takes back to 255.
    with np.errstate(over="ignore"):
        powers = (x * 2).astype(np.float32) ** a * np.maximum(y * 2, np.float32(_TINY)) ** b
        return np.clip(powers / 2, 0, 255).astype(np.float32)


_OPERATIONS: dict[bool, dict[Operation, Callable[..., FloatImage]]] = {
    False: {"add": mix_add, "multiply": mix_multiply},
    True: {"add": paper_code_add, "multiply": paper_code_multiply},
}


def _float(image: Image) -> FloatImage:
    return image.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Round:
    """One round: the operand is a distorted copy, or the mixing image (``None``)."""

    operand: PhotometricDraws | None
    operation: Operation
    a: float
    b: float


@dataclass(frozen=True)
class PixMixDraws:
    """All draws of one image; mixing starts from a distorted copy or from itself (``None``)."""

    start: PhotometricDraws | None
    rounds: tuple[Round, ...]


def draw_weights(rng: random.Random, beta: float) -> tuple[float, float]:
    """The weights a, b of one round (the paper's ``get_ab``)."""
    if rng.random() < 0.5:
        return rng.betavariate(beta, 1), rng.betavariate(1, beta)
    return 1 + rng.betavariate(1, beta), -rng.betavariate(1, beta)


def draw_pixmix(rng: random.Random, k: int, beta: float) -> PixMixDraws:
    """Draw the start, 0..k rounds, and each round's operand, operation and weights."""
    start = draw_photometric(rng) if rng.random() < 0.5 else None
    rounds = []
    for _ in range(rng.randint(0, k)):
        operand = draw_photometric(rng) if rng.random() < 0.5 else None
        operation: Operation = "add" if rng.random() < 0.5 else "multiply"
        rounds.append(Round(operand, operation, *draw_weights(rng, beta)))
    return PixMixDraws(start, tuple(rounds))


def apply_pixmix(
    image: Image, draws: PixMixDraws, mixing: Image | None, paper_code: bool = False
) -> FloatImage:
    """Mix an RGB image (H, W, 3), uint8, with one of its shape, if any round needs one."""
    mixed = np.empty(image.shape, dtype=np.float32)
    # Every step works on single pixels, so any strips give the same result.
    for top in range(0, image.shape[0], _STRIP):
        rows = slice(top, top + _STRIP)
        original, other = image[rows], None if mixing is None else mixing[rows]
        if paper_code and other is not None:
            other = other[..., ::-1].astype(np.float32) / 255
        strip = original if draws.start is None else apply_photometric(original, draws.start)
        for step in draws.rounds:
            operand = other if step.operand is None else apply_photometric(original, step.operand)
            strip = _OPERATIONS[paper_code][step.operation](strip, operand, step.a, step.b)
        mixed[rows] = strip
    return mixed


class PixMix(A.ImageOnlyTransform):
    """Mix an RGB image (H, W, 3), uint8, in up to ``k`` rounds into float32, 0..255."""

    def __init__(
        self, mixing: MixingImages, k: int = 4, beta: float = 3.0, paper_code: bool = False
    ) -> None:
        super().__init__(p=1.0)
        if k < 0 or beta <= 0:
            raise UserError(f"PixMix k {k}, beta {beta}: k must not be negative, beta positive")
        self.mixing, self.k, self.beta, self.paper_code = mixing, k, beta, paper_code

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        draws = draw_pixmix(self.py_random, self.k, self.beta)
        mixing = None
        if any(step.operand is None for step in draws.rounds):
            height, width = params["shape"][:2]
            mixing = self.mixing.draw(height, width, self.py_random)
        return {"draws": draws, "mixing_image": mixing}

    def apply(
        self, img: Image, draws: PixMixDraws, mixing_image: Image | None, **params: Any
    ) -> FloatImage:
        return apply_pixmix(img, draws, mixing_image, self.paper_code)
