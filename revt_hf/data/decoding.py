"""Open and decode every image and label: no version of OpenCV and no format decides its turn."""

import io
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from revt_hf.core.errors import UserError, readable
from revt_hf.data.containers import MOST_PIXELS, Header, bmp_palette, read_header
from revt_hf.data.labels import LabelTable, Reading

RAW_SUFFIX = ".npy"
_POLYGONS = ".json"
_NO_POLYGONS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
# OpenCV decodes no larger buffer.
_MOST_BYTES = (1 << 31) - 1
# Bytes from which the size of most images can be read.
_BEGINNING = 1 << 14
# White in the Netpbm files that every decoder reads alike.
_WHOLE_BYTES = (None, 255, 65535)

# OpenCV's warnings name no file; our errors do.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class ImageFile:
    name: str  # in messages
    data: bytes  # empty if it is mapped into memory
    header: Header


def open_image(cell: dict[str, Any]) -> ImageFile:
    """Read an undecoded ``datasets.Image`` cell: a path, or bytes."""
    name = str(cell["path"] or "an image held in memory")
    data = cell["bytes"]
    if data is None:
        _check_regular(Path(cell["path"]))
        if name.lower().endswith(RAW_SUFFIX):
            return ImageFile(name, b"", Header(RAW_SUFFIX))
        with readable(name):
            data = Path(cell["path"]).read_bytes()
    if name.lower().endswith(_POLYGONS):
        return ImageFile(name, data, Header(_POLYGONS))
    header = read_header(data)
    if not header.whole:
        raise UserError(f"{name}: the file is truncated")
    width, height = header.size or (0, 0)
    if width * height > MOST_PIXELS:
        most = f"more than the {MOST_PIXELS:,} allowed"
        raise UserError(f"{name}: {width}x{height} pixels are {most}")
    if header.unusual:
        raise UserError(f"{name}: {header.unusual} pixels: save it as 8 or 16 bits")
    return ImageFile(name, bytes(data), header)


def image_size(cell: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of an undecoded cell once decoded; None if only decoding can tell."""
    header = image_header(cell)
    return None if header is None else header.displayed


def image_header(cell: dict[str, Any]) -> Header | None:
    """The header of an undecoded image's cell, from its first bytes; None if they are unusable."""
    data = cell["bytes"]
    try:
        if data is not None:
            return read_header(data)
        _check_regular(Path(cell["path"]))
        if str(cell["path"]).lower().endswith(RAW_SUFFIX):
            height, width, _ = _mapped(cell["path"], channels=3).shape
            return Header(RAW_SUFFIX, (width, height))
        with Path(cell["path"]).open("rb") as file:
            data = file.read(_BEGINNING)
            header = read_header(data)
            if header.size is None or header.kind == "tiff":
                header = read_header(data + file.read())
        return header
    except (OSError, UserError):
        return None


def decode_image(file: ImageFile) -> NDArray[np.uint8]:
    """RGB (H, W, 3), uint8, turned by the file's orientation."""
    if file.header.kind == RAW_SUFFIX:
        return _mapped(file.name, channels=3)
    if file.header.peak not in _WHOLE_BYTES:
        image, values = _pillow(file, file.data, "an image")
        if image.mode == "I":  # Pillow spreads grey values with an unusual white over 16 bits
            return np.dstack([(values >> 8).astype(np.uint8)] * 3)
        return np.array(image.convert("RGB"))
    pixels = _opencv(file, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.ndim != 3:
        raise UserError(f"{file.name}: not an image that OpenCV can read, or a damaged one")
    return _turned(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), file.header.orientation)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG of an RGB image (H, W, 3) or a label map (H, W), uint8."""
    in_order = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".png", in_order)[1].tobytes())


def decode_raw(file: ImageFile, table: LabelTable, turn: int) -> NDArray[Any]:
    """A label's raw values (H, W) as stored: uint8, uint16 or uint32, turned by an orientation."""
    name, header = file.name, file.header
    if header.kind == RAW_SUFFIX:
        return _turned(_mapped(name, channels=0), turn)
    if header.kind == _POLYGONS:
        return _turned(_polygons(file.data, table, name), turn)
    one_channel = table.reading in (Reading.VALUE, Reading.GREY)
    stored = one_channel and header.packed
    raw = _unpacked(file) if stored else _opencv(file, cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise UserError(f"{name}: not a label that OpenCV can read, or a damaged one")
    if header.lossy:
        what = f"a label in a format that may change values ({header.kind or 'unknown'})"
        raise UserError(f"{name}: {what}: export it again, as PNG")
    if header.inverted:
        raise UserError(f"{name}: a {header.kind} file whose zero is white: save the label as PNG")
    if not one_channel and header.peak not in _WHOLE_BYTES:
        raise UserError(f"{name}: values up to {header.peak}: save the label as PNG")
    return _turned(_values(raw, table, name), turn)


def _values(raw: NDArray[Any], table: LabelTable, name: str) -> NDArray[Any]:
    channels = 1 if raw.ndim == 2 else raw.shape[2]
    bits = 8 * raw.dtype.itemsize
    if raw.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{name}: labels are whole numbers of 8 or 16 bits, not {raw.dtype}")
    if table.reading is Reading.VALUE:
        if channels != 1:
            raise UserError(f"{name}: a label has one channel, this has {channels}")
        return raw
    named = f"{name}: labels of the encoding '{table.name}'"
    if table.reading is Reading.GREY:
        if channels > 1 and not (raw[..., 1:3] == raw[..., :1]).all():
            raise UserError(f"{named} are grey, this has colours")
        return raw if channels == 1 else np.ascontiguousarray(raw[..., 0])
    if channels < 3:
        raise UserError(f"{named} have three channels, this has {channels}")
    if bits != (16 if table.reading is Reading.RED else 8):
        raise UserError(f"{named} do not have {bits} bits")
    # OpenCV's order is blue, green, red.
    if table.reading is Reading.RED:
        return np.ascontiguousarray(raw[..., 2])
    blue, green, red = (raw[..., channel].astype(np.uint32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _polygons(data: bytes, table: LabelTable, name: str) -> NDArray[np.uint8]:
    """Raw label values (H, W) of a ``_polygons.json`` file (IDD, Cityscapes)."""
    # Rules of cityscapesScripts ``json2labelImg.py``: later polygons cover earlier ones, deleted
    # ones are left out, and ``cargroup`` counts as ``car``.
    if not table.polygons:
        raise UserError(f"{name}: the encoding '{table.name}' has no polygons")
    try:
        annotation = json.loads(data)
        size = (int(annotation["imgWidth"]), int(annotation["imgHeight"]))
        shapes = [
            (str(shape["label"]), [(float(x), float(y)) for x, y in shape["polygon"]])
            for shape in annotation["objects"]
            if not shape.get("deleted")
        ]
        if not 0 < size[0] * size[1] <= MOST_PIXELS or min(size) < 1:
            raise ValueError(f"a size of {size}")
        canvas = Image.new("L", size, table.polygons["unlabeled"])
    except _NO_POLYGONS as error:
        raise UserError(f"{name}: not a polygon file (imgWidth, imgHeight, objects)") from error
    draw = ImageDraw.Draw(canvas)
    for label, points in shapes:
        known = label if label in table.polygons else label.removesuffix("group")
        if known not in table.polygons:
            raise UserError(f"{name}: the class '{known}' is not in the encoding '{table.name}'")
        if len(points) >= 3:
            draw.polygon(points, fill=table.polygons[known])
    return np.array(canvas)


def _unpacked(file: ImageFile) -> NDArray[np.uint8]:
    """The values of a palette image or one of fewer than eight bits; OpenCV would stretch them."""
    data, header = _without_orientation(file), file.header
    if header.kind == "bmp":
        # Pillow takes the bytes for grey values, or bits, where a palette is black, ..., white.
        at = bmp_palette(data)
        data = data[:at] + b"\1\2\3" + data[at + 3 :]
    image, pixels = _pillow(file, data, "a label")
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    if header.peak is not None:
        return np.rint(pixels * (header.peak / 255)).astype(np.uint8)
    if image.mode == "L" and header.bits < 8:
        return np.asarray(pixels // (255 // ((1 << header.bits) - 1)), dtype=np.uint8)
    return pixels


def _pillow(file: ImageFile, data: bytes, what: str) -> tuple[Image.Image, NDArray[Any]]:
    try:
        image = Image.open(io.BytesIO(data))
        return image, np.array(image)
    # Pillow raises anything for a broken file.
    except Exception as error:
        problem = f"not {what} that Pillow can read, or a damaged one"
        raise UserError(f"{file.name}: {problem}") from error


def _opencv(file: ImageFile, flags: int) -> NDArray[Any] | None:
    if not file.data:
        return None
    try:
        return cv2.imdecode(np.frombuffer(_without_orientation(file), np.uint8), flags)
    except cv2.error:
        return None


def _without_orientation(file: ImageFile) -> bytes:
    """A file's bytes; every decoder applies a TIFF's orientation, so that is set to 1."""
    if file.header.tag is None:
        return file.data
    at, size = file.header.tag
    one = (1).to_bytes(size, "big" if file.data[:1] == b"M" else "little")
    return file.data[:at] + one + file.data[at + size :]


def _turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels (H, W, ...) turned as EXIF's orientation (1..8) asks for."""
    if orientation == 1:
        return pixels
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _check_regular(path: Path) -> None:
    """Refuse pipes, which would block forever, and devices, which would fill the memory."""
    with readable(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file")
    if status.st_size > _MOST_BYTES and path.suffix.lower() != RAW_SUFFIX:
        raise UserError(f"{path}: {status.st_size:,} bytes are too many for an image")


def _mapped(name: str, channels: int) -> NDArray[np.uint8]:
    """A raw array (H, W, ``channels``), or (H, W) for 0, mapped into memory."""
    try:
        mapped = np.load(name, mmap_mode="r", allow_pickle=False)
    # numpy and Python's own parser raise anything for a broken header.
    except Exception as error:
        raise UserError(f"{name}: missing, truncated or not a raw image") from error
    if not isinstance(mapped, np.ndarray) or not mapped.size:
        raise UserError(f"{name}: not a raw image")
    shape_is_right = mapped.ndim == (3 if channels else 2) and mapped.shape[2:] in ((), (channels,))
    if mapped.dtype != np.uint8 or not shape_is_right:
        raise UserError(f"{name}: not a raw image (8 bits, {channels or 1} channels)")
    return np.asarray(mapped)
