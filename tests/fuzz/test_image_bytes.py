"""Mutated image files through the one door: an array as displayed, or one sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from revt_hf.data.decoding import image_size
from revt_hf.data.labels import LabelTable
from revt_hf.data.reading import read_image, read_label
from tests.helpers.mutate import COUNT, cases, mutated_bytes, reads_or_refuses

# Every value is a class, so that only damage is refused.
ANY = LabelTable({value: value % 19 for value in range(256)}, "any")
PIXELS = np.random.default_rng(0).integers(0, 19, (20, 28, 3), dtype=np.uint8)


def _encoded(kind, pixels=PIXELS, mode=None, exif=True, **options):
    image = Image.fromarray(pixels)
    if mode is not None:
        image = image.convert(mode)
    if exif:
        tags = Image.Exif()
        tags[0x0112] = 6
        options["exif"] = tags if kind == "TIFF" else tags.tobytes()
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


FILES = {
    "jpeg": lambda: _encoded("JPEG"),
    "progressive jpeg": lambda: _encoded("JPEG", progressive=True),
    "png": lambda: _encoded("PNG"),
    "grey png": lambda: _encoded("PNG", PIXELS[..., 0]),
    "palette png": lambda: _encoded("PNG", mode="P"),
    "bilevel png": lambda: _encoded("PNG", mode="1"),
    "lossy webp": lambda: _encoded("WEBP"),
    "lossless webp": lambda: _encoded("WEBP", lossless=True),
    "tiff": lambda: _encoded("TIFF"),
    "palette tiff": lambda: _encoded("TIFF", mode="P"),
    "bilevel tiff": lambda: _encoded("TIFF", mode="1"),
    "packed tiff": lambda: _encoded("TIFF", compression="tiff_lzw"),
    "bmp": lambda: _encoded("BMP", exif=False),
    "palette bmp": lambda: _encoded("BMP", mode="P", exif=False),
    "gif": lambda: _encoded("GIF", mode="P", exif=False),
    "ppm": lambda: _encoded("PPM", exif=False),
}


def _checked(cell):
    """Both readings of a file; each may refuse it."""
    image = read_image(cell)
    assert (image.ndim, image.shape[2:], image.dtype) == (3, (3,), np.uint8)
    assert image_size(cell) in (None, image.shape[:2])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FILES)
def test_mutated_images_are_arrays_or_one_sentence(kind):
    original = FILES[kind]()
    # A case that is refused from the start would test nothing.
    _checked({"path": None, "bytes": original})
    for rng, where in cases(kind, max(1, COUNT // len(FILES))):
        cell = {"path": None, "bytes": mutated_bytes(original, rng)}
        reads_or_refuses(lambda cell=cell: _checked(cell), where)
        label = reads_or_refuses(lambda cell=cell: read_label(cell, ANY), where)
        assert label is None or (label.ndim == 2 and label.dtype == np.uint8), where
