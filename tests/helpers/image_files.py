"""One image in many kinds of files, and videos of it."""

import cv2
import numpy as np
from PIL import Image

from tests.helpers.networks import random_image

_ORIENTATION = 0x112
# How an image is stored so that the tag turns it back.
_STORED = {
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
IMAGE = random_image(48, 96, seed=3)
_IMAGE = Image.fromarray(IMAGE)
_GREY = _IMAGE.convert("L")
_ALPHA = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8) + 100, (48, 1)))
_EXACT = {
    "rgb.png": lambda path: _IMAGE.save(path),
    "lossless.webp": lambda path: _IMAGE.save(path, lossless=True),
    "plain.tiff": lambda path: _IMAGE.save(path),
    "lzw.tif": lambda path: _IMAGE.save(path, compression="tiff_lzw"),
    "plain.bmp": lambda path: _IMAGE.save(path),
    "rgba.png": lambda path: _rgba().save(path),
    "rgba.webp": lambda path: _rgba().save(path, lossless=True),
    "sixteen.png": lambda path: _sixteen(path),
    "sixteen.tif": lambda path: _sixteen(path),
    **{
        f"turned-{tag}{suffix}": lambda path, tag=tag: _turned(path, tag)
        for tag in _STORED
        for suffix in (".png", ".webp", ".tiff")
    },
}
_GREYS = {
    "grey.png": lambda path: _GREY.save(path),
    "grey-alpha.png": lambda path: Image.merge("LA", (_GREY, _ALPHA)).save(path),
    "sixteen-grey.png": lambda path: cv2.imwrite(str(path), np.asarray(_GREY) * np.uint16(257)),
    "sixteen-grey.tif": lambda path: cv2.imwrite(str(path), np.asarray(_GREY) * np.uint16(257)),
}
_LOSSY = {
    "plain.jpg": lambda path: _IMAGE.save(path, quality=98, subsampling=0),
    "upper.JPEG": lambda path: _IMAGE.save(path, quality=98, subsampling=0),
    "cmyk.jpg": lambda path: _IMAGE.convert("CMYK").save(path, quality=98, subsampling=0),
    "plain.webp": lambda path: _IMAGE.save(path, quality=95),
    "palette.png": lambda path: _IMAGE.quantize(256).save(path),
    "palette-transparent.png": lambda path: _IMAGE.quantize(256).save(path, transparency=3),
    "turned-6.jpg": lambda path: _turned(path, 6, quality=98, subsampling=0),
    "turned-8.jpg": lambda path: _turned(path, 8, quality=98, subsampling=0),
}
# What is in a file, by how far its pixels may be off on average.
KINDS = {
    **{name: (write, IMAGE, 0.0) for name, write in _EXACT.items()},
    **{name: (write, np.asarray(_GREY.convert("RGB")), 0.0) for name, write in _GREYS.items()},
    **{name: (write, IMAGE, 16.0) for name, write in _LOSSY.items()},
}


def _rgba():
    return Image.merge("RGBA", (*_IMAGE.split(), _ALPHA))


def _sixteen(path):
    cv2.imwrite(str(path), IMAGE[..., ::-1] * np.uint16(257))


def _turned(path, tag, **how):
    exif = Image.Exif()
    exif[_ORIENTATION] = tag
    how = {"lossless": True} if path.suffix == ".webp" else how
    _IMAGE.transpose(_STORED[tag]).save(path, exif=exif, **how)


def write_video(path, frames, rate=12.5):
    """A video of images (H, W, 3)."""
    codec = {".avi": "MJPG"}.get(path.suffix, "mp4v")
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def read_video(path):
    """Rate and frames (H, W, 3), RGB, of a video."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return capture.get(cv2.CAP_PROP_FPS), frames
