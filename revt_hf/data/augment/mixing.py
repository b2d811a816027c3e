"""PixMix's mixing images: from a folder, or generated, complex and colourful as PixMix wants them.

Flames after Draves, "The Fractal Flame Algorithm", 2003; cosine palettes after Quilez.
"""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.reading import read_image

Field = NDArray[np.float32]
Points = NDArray[np.float64]
Image = NDArray[np.uint8]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
# Short side of a mixing image before the random crop, as in the original.
SHORT_SIDE = 576
GENERATED = "generated"


def random_crop(image: Image, height: int, width: int, rng: random.Random) -> Image:
    """Resize an RGB image (uint8) to a short side of 576, or more if needed, and crop it."""
    factor = max(SHORT_SIDE / min(image.shape[:2]), height / image.shape[0], width / image.shape[1])
    if factor != 1:
        size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    top = rng.randint(0, image.shape[0] - height)
    left = rng.randint(0, image.shape[1] - width)
    return image[top : top + height, left : left + width]


class FractalFolder:
    """Mixing images (height, width, 3), uint8, RGB, from the files of a folder and below."""

    def __init__(self, folder: str | Path) -> None:
        if not Path(folder).is_dir():
            raise UserError(
                f"mixing images: no folder {folder}; give one, or '{GENERATED}' for built-in ones"
            )
        self.files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not self.files:
            raise UserError(f"mixing images: no image file in {folder} or below it")

    def draw(self, height: int, width: int, rng: random.Random) -> Image:
        file = rng.choice(self.files)
        try:
            image = read_image({"path": str(file), "bytes": None})
        except UserError as error:
            raise UserError(f"mixing image {error}: remove it") from error
        return random_crop(image, height, width, rng)


class GeneratedImages:
    """Mixing images from a bank (1 MiB an image) that each process generates on demand."""

    def __init__(self, count: int = 64, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def draw(self, height: int, width: int, rng: random.Random) -> Image:
        return random_crop(_generated(self.seed, rng.randrange(self.count)), height, width, rng)


MixingImages: TypeAlias = FractalFolder | GeneratedImages


# Kept outside the source, so that a pickled pipeline does not carry the images along.
@cache
def _generated(seed: int, index: int) -> Image:
    image = generate(seed, index, SHORT_SIDE)
    image.setflags(write=False)
    return image


def mixing_images(source: str | Path) -> MixingImages:
    """The source of mixing images that a recipe names: ``generated``, or a folder."""
    return GeneratedImages() if source == GENERATED else FractalFolder(source)


def generate(seed: int, index: int, size: int) -> Image:
    """Image ``index`` of the bank ``seed``: (size, size, 3), uint8, RGB; kinds take turns."""
    rng = np.random.default_rng([seed, index])
    value, light = (_julia, _flame, _warp)[index % 3](size // 2, rng)
    image = _colour(value, light, rng)
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC))


def _colour(value: Field, light: Field, rng: Generator) -> Image:
    """Colours by a random cosine palette along ``value``, scaled by ``light`` (0..1)."""
    frequency = rng.uniform(0.8, 3.0) * rng.uniform(0.7, 1.3, 3)
    phase = rng.uniform(0, 1, 3)
    centre, swing = rng.uniform(0.4, 0.6, 3), rng.uniform(0.35, 0.5, 3)
    steps = np.linspace(0, 1, 256)[:, None]
    palette = centre + swing * np.cos(2 * np.pi * (frequency * steps + phase))
    image = cv2.remap(
        np.clip(palette * 255, 0, 255).astype(np.float32)[None],
        np.clip(value * 255, 0, 255).astype(np.float32),
        np.zeros_like(value, dtype=np.float32),
        cv2.INTER_LINEAR,
    )
    return np.clip(image * light[..., None], 0, 255).astype(np.uint8)


def _equalise(value: Field) -> Field:
    """Spread values evenly over 0..1, so that the whole palette is used."""
    levels = cv2.normalize(value, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
    counts = np.cumsum(np.bincount(levels.reshape(-1), minlength=256))
    steps = (counts / counts[-1]).astype(np.float32)
    fine = cv2.normalize(value, None, 0, 254.99, cv2.NORM_MINMAX, cv2.CV_32F)
    low = fine.astype(np.uint8)
    return steps[low] + (steps[low + 1] - steps[low]) * (fine - low)


def _noise(size: int, rng: Generator, octaves: int = 5) -> Field:
    """Multi-octave value noise, 0..1, each octave half as strong as the one before."""
    total = np.zeros((size, size), dtype=np.float32)
    for octave in range(octaves):
        cells = min(size, 2 << octave)
        grid = rng.random((cells + 2, cells + 2), dtype=np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    return np.asarray(cv2.normalize(total, None, 0, 1, cv2.NORM_MINMAX))


def _julia(size: int, rng: Generator) -> tuple[Field, Field]:
    """Escape times and orbit traps of z -> z ** 2 + c, with c just outside the main cardioid."""
    angle = rng.uniform(0, 2 * np.pi)
    edge = np.exp(1j * angle) / 2 - np.exp(2j * angle) / 4
    c = np.complex64(edge * rng.uniform(1.01, 1.1))
    turn = np.exp(1j * rng.uniform(0, 2 * np.pi)) * rng.uniform(0.7, 1.3)
    axis = np.linspace(-1, 1, size)
    z = ((axis[None] + 1j * axis[:, None]) * turn).astype(np.complex64).reshape(-1)
    steps = np.zeros(z.size, dtype=np.float32)
    trap = np.full(z.size, 4, dtype=np.float32)
    alive = np.arange(z.size)
    for step in range(48):
        z = z * z + c
        radius = z.real**2 + z.imag**2
        trap[alive] = np.minimum(trap[alive], np.minimum(np.abs(z.real), radius))
        gone = radius > 64
        steps[alive[gone]] = step + 1 - np.log2(np.log2(radius[gone]) / 6)
        alive, z = alive[~gone], z[~gone]
    steps[alive] = 48 * trap[alive] / max(float(trap[alive].max(initial=0)), 1e-6)
    light = 0.55 + 0.45 * np.clip(np.sqrt(trap.reshape(size, size)) * 2, 0, 1)
    return _equalise(steps.reshape(size, size)), light.astype(np.float32)


def _flame(size: int, rng: Generator) -> tuple[Field, Field]:
    """Where the points of an iterated function system with non-linear variations gather."""
    points, maps = 6000, int(rng.integers(3, 6))
    linear = rng.uniform(-0.9, 0.9, (maps, 2, 3))
    variations = rng.integers(0, len(_VARIATIONS), maps)
    colours = rng.random(maps)
    position = rng.uniform(-1, 1, (2, points))
    colour = rng.random(points)
    positions, hues = [], []
    for step in range(60):
        # All points of a step share a few groups, so that every map works on whole arrays.
        groups = np.array_split(rng.permutation(points), maps)
        for index, group in enumerate(groups):
            moved = linear[index, :, :2] @ position[:, group] + linear[index, :, 2:]
            position[:, group] = _VARIATIONS[variations[index]](moved)
            colour[group] = (colour[group] + colours[index]) / 2
        if step >= 10:
            positions.append(position.copy())
            hues.append(colour.copy())
    value, light = _density(np.concatenate(positions, axis=1), np.concatenate(hues), size)
    # Most of a flame is dark, and black hardly mixes: warped noise shines through there.
    ground, ground_light = _warp(size, rng)
    return light * value + (1 - light) * ground, np.maximum(light, 0.6 * ground_light)


def _density(positions: Points, hues: Points, size: int) -> tuple[Field, Field]:
    """Mean hue and logarithmic brightness of the points (2, N) in each pixel."""
    low, high = np.percentile(positions, (3, 97), axis=1)
    scaled = (positions - low[:, None]) / np.maximum(high - low, 1e-6)[:, None] * size
    inside = np.all((scaled >= 0) & (scaled < size), axis=0)
    column, row = scaled[:, inside].astype(np.int64)
    pixel = row * size + column

    def blurred(weights: Points | None) -> NDArray[Any]:
        # A little wider as well, so that empty pixels take the hue of their surroundings.
        total = np.bincount(pixel, weights, minlength=size * size)
        total = total.reshape(size, size).astype(np.float32)
        return cv2.GaussianBlur(total, (0, 0), 0.8) + 0.02 * cv2.GaussianBlur(total, (0, 0), 8)

    count, hue = blurred(None), blurred(hues[inside])
    light = np.log1p(count * 4)
    light = np.clip(light / np.percentile(light, 97), 0, 1)
    return _equalise(hue / np.maximum(count, 1e-6)), light.astype(np.float32)


def _swirl(p: Points) -> Points:
    radius = (p**2).sum(axis=0)
    sine, cosine = np.sin(radius), np.cos(radius)
    return np.stack([p[0] * sine - p[1] * cosine, p[0] * cosine + p[1] * sine])


_VARIATIONS: tuple[Callable[[Points], Points], ...] = (
    lambda p: p,
    np.sin,
    lambda p: p / ((p**2).sum(axis=0) + 0.2),
    _swirl,
    lambda p: np.stack([np.arctan2(p[0], p[1]) / np.pi, np.sqrt((p**2).sum(axis=0)) - 1]),
)


def _warp(size: int, rng: Generator) -> tuple[Field, Field]:
    """Noise looked up at positions that other noise displaces, with ridges as light."""
    axis = np.arange(size, dtype=np.float32)
    across, down = np.meshgrid(axis, axis)
    strength = size * rng.uniform(0.3, 0.8)
    field = _noise(size, rng)
    for _ in range(2):
        field = cv2.remap(
            field,
            across + strength * (_noise(size, rng, 4) - 0.5),
            down + strength * (_noise(size, rng, 4) - 0.5),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    stripes = np.sin(_equalise(field) * rng.uniform(10, 40)) * 0.5 + 0.5
    return _equalise(field), (0.5 + 0.5 * stripes).astype(np.float32)
