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
_RGB = Image.fromarray(IMAGE)
_GREY = _RGB.convert("L")
_ALPHA = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8) + 100, (48, 1)))
_RGBA = Image.merge("RGBA", (*_RGB.split(), _ALPHA))
# Pillow writes no colours of 16 bits.
_SIXTEEN, _SIXTEEN_GREY = (a * np.uint16(257) for a in (IMAGE[..., ::-1], np.asarray(_GREY)))
_LOSSLESS, _BEST = {"lossless": True}, {"quality": 98, "subsampling": 0}
_SHOWN = np.asarray(_GREY.convert("RGB"))
_PALETTE = _RGB.quantize(256)
# What is written and how, what is displayed, how far pixels may be off on average.
_GROUPS = {
    "rgb.png plain.tiff plain.bmp": (_RGB, {}, IMAGE, 0.0),
    "lzw.tif": (_RGB, {"compression": "tiff_lzw"}, IMAGE, 0.0),
    "turned-3.webp turned-5.webp turned-6.webp turned-8.webp": (_RGB, _LOSSLESS, IMAGE, 0.0),
    "lossless.webp": (_RGB, _LOSSLESS, IMAGE, 0.0),
    "turned-3.png turned-5.png turned-6.png turned-8.png": (_RGB, {}, IMAGE, 0.0),
    "turned-3.tiff turned-5.tiff turned-6.tiff turned-8.tiff": (_RGB, {}, IMAGE, 0.0),
    "rgba.png": (_RGBA, {}, IMAGE, 0.0),
    "rgba.webp": (_RGBA, _LOSSLESS, IMAGE, 0.0),
    "sixteen.png sixteen.tif": (_SIXTEEN, {}, IMAGE, 0.0),
    "grey.png": (_GREY, {}, _SHOWN, 0.0),
    "grey-alpha.png": (Image.merge("LA", (_GREY, _ALPHA)), {}, _SHOWN, 0.0),
    "sixteen-grey.png sixteen-grey.tif": (_SIXTEEN_GREY, {}, _SHOWN, 0.0),
    "plain.jpg upper.JPEG turned-6.jpg turned-8.jpg": (_RGB, _BEST, IMAGE, 16.0),
    "cmyk.jpg": (_RGB.convert("CMYK"), _BEST, IMAGE, 16.0),
    "plain.webp": (_RGB, {"quality": 95}, IMAGE, 16.0),
    "palette.png": (_PALETTE, {}, IMAGE, 16.0),
    "palette-transparent.png": (_PALETTE, {"transparency": 3}, IMAGE, 16.0),
}
KINDS = {name: kind for names, kind in _GROUPS.items() for name in names.split()}


def write_kind(path):
    image, options, _, _ = KINDS[path.name]
    if isinstance(image, np.ndarray):
        cv2.imwrite(str(path), image)
        return
    if path.name.startswith("turned"):
        tag = int(path.stem.partition("-")[2])
        exif = Image.Exif()
        exif[_ORIENTATION] = tag
        image, options = image.transpose(_STORED[tag]), {**options, "exif": exif}
    image.save(path, **options)


def write_video(path, frames, rate=12.5):
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


def write_pairs(root, split, pairs):
    """A split of images and labels (arrays) by name, in the original's layout."""
    for name, pair in pairs.items():
        for kind, pixels in zip(("img_dir", "ann_dir"), pair, strict=True):
            path = root / kind / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
