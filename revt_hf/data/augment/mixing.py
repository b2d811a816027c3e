"""PixMix's mixing images: from a folder, or generated."""

import random
from functools import cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.augment.generated import generate
from revt_hf.data.reading import read_image

Image = NDArray[np.uint8]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
# Short side of a mixing image before the random crop, as in the original.
SHORT_SIDE = 576
BANK = 64
GENERATED = "generated"


class MixingImages(Protocol):
    """A source of mixing images."""

    def draw(self, height: int, width: int, rng: random.Random) -> Image:
        """A random RGB image (height, width, 3), uint8; only ``rng`` decides which."""


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
    """Mixing images from the image files of a folder and its sub-folders.

    Args:
        folder: for instance the fractals and feature visualisations of the PixMix authors.

    Raises:
        UserError: no such folder, or no image in it; in ``draw``, an unreadable file.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(
                f"mixing images: no folder {folder}; give one, or '{GENERATED}' for built-in ones"
            )
        self.files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
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
    """Mixing images from a bank that each process generates on demand, the same everywhere.

    Args:
        count: number of images in the bank (1 MiB each once used).
        seed: another seed is another bank.
    """

    def __init__(self, count: int = BANK, seed: int = 0) -> None:
        self.count = count
        self.seed = seed

    def draw(self, height: int, width: int, rng: random.Random) -> Image:
        return random_crop(_generated(self.seed, rng.randrange(self.count)), height, width, rng)


# Kept outside the source, so that a pickled pipeline does not carry the images along.
@cache
def _generated(seed: int, index: int) -> Image:
    image = generate(seed, index, SHORT_SIDE)
    image.setflags(write=False)
    return image


def mixing_images(source: str | Path) -> MixingImages:
    """The source that a recipe names: ``generated``, or a folder.

    Raises:
        UserError: no such folder, or no image in it.
    """
    return GeneratedImages() if source == GENERATED else FractalFolder(source)
