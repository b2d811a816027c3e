"""Open and decode one image or label, turned by its own EXIF orientation.

Every image and label of the package comes through here, so that no version of OpenCV and no format
decides how it is turned, and nothing but regular files is opened.
"""

import io
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from revt_hf.core.errors import UserError
from revt_hf.data.containers import MOST_PIXELS, Header, bmp_palette, read_header
from revt_hf.data.labels import LabelTable, Reading
from revt_hf.data.polygons import draw_polygons

RAW_SUFFIX = ".npy"
_POLYGONS = ".json"
# OpenCV decodes no more.
_MOST_BYTES = (1 << 31) - 1
# Of a file: enough for the size of most images.
_START = 1 << 14

# White in those Netpbm files that every decoder reads alike.
_WHOLE_BYTES = (None, 255, 65535)

# Its remarks name no file; what cannot be read is said by ours.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Pixels = TypeVar("Pixels", bound=NDArray[Any])


@dataclass(frozen=True)
class ImageFile:
    """An image or label that was read and can be decoded.

    Attributes:
        name: how messages call it.
        data: its bytes; empty where it is mapped into memory.
        header: what it says of itself.
    """

    name: str
    data: bytes
    header: Header


def open_image(cell: dict[str, Any]) -> ImageFile:
    """Read an undecoded ``datasets.Image`` cell: a path, or bytes.

    Raises:
        UserError: the file is missing, truncated, no regular file, too large, or of other values
            than whole numbers of at most 16 bits.
    """
    name = str(cell["path"] or "an image held in memory")
    data = cell["bytes"]
    if data is None:
        _check_regular(Path(cell["path"]))
        if name.lower().endswith(RAW_SUFFIX):
            return ImageFile(name, b"", Header(RAW_SUFFIX))
        try:
            data = Path(cell["path"]).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {name}: {error.strerror}") from error
    if name.lower().endswith(_POLYGONS):
        return ImageFile(name, data, Header(_POLYGONS))
    header = read_header(data)
    if not header.whole:
        raise UserError(f"{name}: the file is truncated")
    width, height = header.size or (0, 0)
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{name}: {width}x{height} pixels are more than the {MOST_PIXELS:,} allowed"
        )
    if header.unusual:
        raise UserError(f"{name}: {header.unusual} pixels: save it as 8 or 16 bits")
    return ImageFile(name, bytes(data), header)


def image_size(cell: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of an undecoded cell as it will be decoded; None if that shows only then.

    Of most files only the start is read, so this is fast.
    """
    data = cell["bytes"]
    try:
        if data is None:
            _check_regular(Path(cell["path"]))
            if str(cell["path"]).lower().endswith(RAW_SUFFIX):
                return _mapped(ImageFile(cell["path"], b"", Header(RAW_SUFFIX)), 3).shape[:2]
            with Path(cell["path"]).open("rb") as file:
                data = file.read(_START)
                header = read_header(data)
                if header.size is None or header.kind == "tiff":
                    header = read_header(data + file.read())
        else:
            header = read_header(data)
    except (OSError, UserError):
        return None
    if header.size is None:
        return None
    return header.size if header.orientation > 4 else header.size[::-1]


def decode_image(file: ImageFile) -> NDArray[np.uint8]:
    """RGB (H, W, 3), uint8, turned by the file's orientation.

    Raises:
        UserError: it is damaged or not an image.
    """
    if file.header.kind == RAW_SUFFIX:
        return _mapped(file, channels=3)
    if file.header.peak not in _WHOLE_BYTES:
        return _spread(file)
    pixels = _decoded(file, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.ndim != 3:
        raise UserError(f"{file.name}: not an image that OpenCV can read, or a damaged one")
    rgb: NDArray[np.uint8] = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    return _turned(rgb, file.header.orientation)


def decode_raw(file: ImageFile, table: LabelTable, orientation: int | None = None) -> NDArray[Any]:
    """A label's raw values (H, W) as they are stored; uint8, uint16 or uint32.

    Palette images give their indices, never their colours, and grey values of 1, 2 or 4 bits are
    not stretched; see :class:`Reading` for the rest.

    Args:
        file: the label.
        table: decides how its values are read.
        orientation: EXIF's that it is turned by; None is its own.

    Raises:
        UserError: it is damaged, lossy, or not of the encoding's kind.
    """
    header = file.header
    turn = header.orientation if orientation is None else orientation
    if header.kind == RAW_SUFFIX:
        return _turned(_mapped(file, channels=0), turn)
    if header.kind == _POLYGONS:
        return _turned(draw_polygons(file.data, table, file.name), turn)
    stored = _stored(file) if table.reading is Reading.VALUE and header.packed else None
    raw = _decoded(file, cv2.IMREAD_UNCHANGED) if stored is None else stored
    if raw is None:
        raise UserError(f"{file.name}: not a label that OpenCV can read, or a damaged one")
    if header.lossy:
        what = f"a label in a format that may change values ({header.kind or 'unknown'})"
        raise UserError(f"{file.name}: {what}: make it anew, as PNG")
    if header.inverted:
        what = f"a {header.kind} file whose zero is white"
        raise UserError(f"{file.name}: {what}: save the label as PNG")
    if table.reading is not Reading.VALUE and header.peak not in _WHOLE_BYTES:
        raise UserError(f"{file.name}: values up to {header.peak}: save the label as PNG")
    return _turned(_values(raw, table, file.name), turn)


def _values(raw: NDArray[Any], table: LabelTable, name: str) -> NDArray[Any]:
    channels = 1 if raw.ndim == 2 else raw.shape[2]
    bits = 8 * raw.dtype.itemsize
    if raw.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{name}: labels are whole numbers of 8 or 16 bits, not {raw.dtype}")
    if table.reading is Reading.VALUE:
        if channels != 1:
            raise UserError(f"{name}: a label has one channel, this has {channels}")
        return raw
    if channels < 3:
        raise UserError(
            f"{name}: labels of the encoding '{table.name}' have three channels, "
            f"this has {channels}"
        )
    if bits != (16 if table.reading is Reading.RED else 8):
        raise UserError(f"{name}: labels of the encoding '{table.name}' do not have {bits} bits")
    # OpenCV's order is blue, green, red.
    if table.reading is Reading.RED:
        return np.ascontiguousarray(raw[..., 2])
    blue, green, red = (raw[..., channel].astype(np.uint32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _stored(file: ImageFile) -> NDArray[np.uint8]:
    """What a palette image or one of less than eight bits stores; OpenCV would stretch it."""
    data, header = _unturned(file), file.header
    if header.kind == "bmp":
        # Pillow takes the bytes for grey values, or bits, where a palette is black, ..., white.
        at = bmp_palette(data)
        data = data[:at] + b"\1\2\3" + data[at + 3 :]
    image, pixels = _opened(file, data, "label")
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    if header.peak is not None:
        return np.rint(pixels * (header.peak / 255)).astype(np.uint8)
    if image.mode == "L" and header.bits < 8:
        return np.asarray(pixels // (255 // ((1 << header.bits) - 1)), dtype=np.uint8)
    return np.asarray(pixels)


def _spread(file: ImageFile) -> NDArray[np.uint8]:
    """RGB (H, W, 3), uint8, of a Netpbm file whose white is an odd number."""
    image, pixels = _opened(file, file.data, "image")
    if image.mode == "I":
        return np.dstack([(pixels >> 8).astype(np.uint8)] * 3)
    return np.array(image.convert("RGB"))


def _opened(file: ImageFile, data: bytes, what: str) -> tuple[Image.Image, NDArray[Any]]:
    """What Pillow makes of a file.

    Raises:
        UserError: it cannot read it.
    """
    try:
        image = Image.open(io.BytesIO(data))
        return image, np.array(image)
    # What a broken file raises is up to Pillow.
    except Exception as error:
        problem = f"not a{'n' * (what == 'image')} {what} that Pillow can read, or a damaged one"
        raise UserError(f"{file.name}: {problem}") from error


def _decoded(file: ImageFile, flags: int) -> NDArray[Any] | None:
    if not file.data:
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(_unturned(file), np.uint8), flags)
    except cv2.error:
        return None
    return None if pixels is None else np.asarray(pixels)


def _unturned(file: ImageFile) -> bytes:
    """A file's bytes; those of a TIFF without its orientation, which every decoder applies."""
    if file.header.tag is None:
        return file.data
    at, size = file.header.tag
    one = (1).to_bytes(size, "big" if file.data[:1] == b"M" else "little")
    return file.data[:at] + one + file.data[at + size :]


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels (H, W, ...) as EXIF's orientation (1..8) says that they are displayed."""
    if orientation == 1:
        return pixels
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]  # type: ignore[assignment]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]  # type: ignore[assignment]
    return np.ascontiguousarray(pixels)  # type: ignore[return-value]


def _check_regular(path: Path) -> None:
    """Pipes would wait for ever, devices fill the memory.

    Raises:
        UserError: it is missing, no regular file, or too large.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file")
    if status.st_size > _MOST_BYTES and path.suffix.lower() != RAW_SUFFIX:
        raise UserError(f"{path}: {status.st_size:,} bytes are too many for an image")


def _mapped(file: ImageFile, channels: int) -> NDArray[np.uint8]:
    name = file.name
    try:
        mapped = np.load(name, mmap_mode="r", allow_pickle=False)
    # What a broken header raises is up to numpy and to Python's own parser.
    except Exception as error:
        raise UserError(f"{name}: missing, truncated or not a raw image") from error
    if not isinstance(mapped, np.ndarray) or not mapped.size:
        raise UserError(f"{name}: not a raw image")
    shape_is_right = mapped.ndim == (3 if channels else 2) and mapped.shape[2:] in ((), (channels,))
    if mapped.dtype != np.uint8 or not shape_is_right:
        raise UserError(f"{name}: not a raw image (8 bits, {channels or 1} channels)")
    return np.asarray(mapped)
