"""Where PixMix takes its mixing pictures from: a folder, or generated ones."""

import random
from functools import cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.augment.generated import generate
from revt_hf.domains.reading import read_image
from revt_hf.errors import UserError

Picture = NDArray[np.uint8]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
# Short side of a mixing picture before the random crop, as in the original.
SHORT_SIDE = 576
BANK = 64
GENERATED = "generated"


class MixingPictures(Protocol):
    """A source of mixing pictures."""

    def draw(self, height: int, width: int, rng: random.Random) -> Picture:
        """A random RGB picture (height, width, 3), uint8; only ``rng`` decides which."""


def random_crop(picture: Picture, height: int, width: int, rng: random.Random) -> Picture:
    """Resize an RGB picture (uint8) to a short side of 576, or more if needed, and crop it."""
    short = min(picture.shape[:2])
    factor = max(SHORT_SIDE / short, height / picture.shape[0], width / picture.shape[1])
    if factor != 1:
        size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    top = rng.randint(0, picture.shape[0] - height)
    left = rng.randint(0, picture.shape[1] - width)
    return picture[top : top + height, left : left + width]


class FractalFolder:
    """Mixing pictures from the picture files of a folder and its sub-folders.

    Args:
        folder: for instance the fractals and feature visualisations of the PixMix authors.

    Raises:
        UserError: no such folder, or no picture in it; in ``draw``, an unreadable file.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(
                f"mixing pictures: no folder {folder}; give one, or '{GENERATED}' for built-in ones"
            )
        self.files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not self.files:
            raise UserError(f"mixing pictures: no picture file in {folder} or below it")

    def draw(self, height: int, width: int, rng: random.Random) -> Picture:
        file = rng.choice(self.files)
        try:
            picture = read_image({"path": str(file), "bytes": None})
        except UserError as error:
            raise UserError(f"mixing picture {error}: remove it") from error
        return random_crop(picture, height, width, rng)


class GeneratedPictures:
    """Mixing pictures from a bank that each process makes on demand, the same everywhere.

    Args:
        count: number of pictures in the bank (1 MiB each once used).
        seed: another seed is another bank.
    """

    def __init__(self, count: int = BANK, seed: int = 0) -> None:
        self.count = count
        self.seed = seed

    def draw(self, height: int, width: int, rng: random.Random) -> Picture:
        return random_crop(_generated(self.seed, rng.randrange(self.count)), height, width, rng)


# Kept outside the source, so that a pickled pipeline does not carry the pictures along.
@cache
def _generated(seed: int, index: int) -> Picture:
    picture = generate(seed, index, SHORT_SIDE)
    picture.setflags(write=False)
    return picture


def mixing_pictures(source: str | Path) -> MixingPictures:
    """The source that a recipe names: ``generated``, or a folder.

    Raises:
        UserError: no such folder, or no picture in it.
    """
    return GeneratedPictures() if source == GENERATED else FractalFolder(source)
