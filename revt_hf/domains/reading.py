"""Decode pictures and labels: OpenCV on raw bytes, raw label values to train ids by table."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from revt_hf.domains.polygons import draw_polygons
from revt_hf.errors import UserError
from revt_hf.labels import LabelTable, Reading

RAW_SUFFIX = ".npy"
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_PNG_COLOUR_TYPE = 25
_PALETTE = 3
# Decoders fill a truncated picture up without a word; its missing end marker tells.
_PNG_TAIL = 64
_JPEG_TAIL = 1 << 16  # cameras append data of their own


@dataclass(frozen=True)
class Decode:
    """Turn rows of a domain into arrays; given to ``datasets.Dataset.with_transform``.

    Gives ``image`` (H, W, 3) uint8 RGB, ``label`` (H, W) uint8 train ids and ``name``.

    Attributes:
        table: from raw label values to train ids.
        fit_labels: resize (nearest) a label whose size is not its picture's, instead of refusing
            it; for data sets that are known to have such labels.
        change: what becomes of a picture (H, W, 3), uint8, RGB, of that name once it is decoded;
            its size stays.
    """

    table: LabelTable
    fit_labels: bool = False
    change: Callable[[NDArray[np.uint8], str], NDArray[np.uint8]] | None = None

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        decoded: dict[str, list[Any]] = {key: list(values) for key, values in rows.items()}
        if "image" in rows:
            decoded["image"] = [read_image(cell) for cell in rows["image"]]
            if self.change is not None:
                decoded["image"] = self._changed(self.change, decoded)
        if "label" in rows:
            decoded["label"] = [read_label(cell, self.table) for cell in rows["label"]]
        if "image" in rows and "label" in rows:
            decoded["label"] = [
                self._fitting(cell, image, label)
                for cell, image, label in zip(
                    rows["label"], decoded["image"], decoded["label"], strict=True
                )
            ]
        return decoded

    def _changed(
        self, change: Callable[..., NDArray[np.uint8]], rows: dict[str, list[Any]]
    ) -> list[NDArray[np.uint8]]:
        if "name" not in rows:
            raise UserError(
                "these pictures are changed by their names: select the column 'name' too"
            )
        return [change(*row) for row in zip(rows["image"], rows["name"], strict=True)]

    def _fitting(
        self, cell: dict[str, Any], image: NDArray[np.uint8], label: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        difference = size_difference(image, label)
        if difference is None:
            return label
        if not self.fit_labels:
            raise UserError(f"{_name(cell)}: {difference}")
        return fitted(label, image)


def size_difference(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> str | None:
    """How a label's size differs from its picture's; None if it does not."""
    if image.shape[:2] == label.shape:
        return None
    return (
        f"the label is {label.shape[1]}x{label.shape[0]}, its picture "
        f"{image.shape[1]}x{image.shape[0]}"
    )


def fitted(label: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A label at its picture's size, nearest neighbour."""
    height, width = image.shape[:2]
    resized = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.uint8)


def read_image(cell: dict[str, Any]) -> NDArray[np.uint8]:
    """Decode an undecoded ``datasets.Image`` cell to RGB (H, W, 3), uint8.

    A raw array (``.npy``) is mapped into memory: only what is used of it is read.

    Raises:
        UserError: the file is missing, truncated or not a picture.
    """
    if _is_raw(cell):
        return _mapped(cell, channels=3)
    data = _bytes(cell)
    picture = _decoded(data, cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise UserError(f"{_name(cell)}: not a picture that OpenCV can read")
    return np.asarray(picture, dtype=np.uint8)


def read_label(cell: dict[str, Any], table: LabelTable) -> NDArray[np.uint8]:
    """Decode an undecoded label cell to train ids (H, W), uint8.

    Raises:
        UserError: as :func:`read_raw`, or it holds a value that the encoding does not have.
    """
    raw = read_raw(cell, table)
    try:
        return table(raw)
    except UserError as error:
        raise UserError(f"{_name(cell)}: {error}") from error


def read_raw(cell: dict[str, Any], table: LabelTable) -> NDArray[Any]:
    """Decode an undecoded label cell to its raw values (H, W); uint8, uint16 or uint32.

    Palette pictures give their indices, never their colours; see :class:`Reading` for the rest.

    Raises:
        UserError: the file is missing, truncated, or not of the encoding's kind.
    """
    if _is_raw(cell):
        return _mapped(cell, channels=0)
    data = _bytes(cell)
    if str(cell["path"] or "").endswith(".json"):
        return draw_polygons(data, table, _name(cell))
    if table.reading is Reading.VALUE and _has_palette(data):
        return _palette_indices(data, cell)
    raw = _decoded(data, cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise UserError(f"{_name(cell)}: not a label picture that OpenCV can read")
    return _values(raw, table, cell)


def _values(raw: NDArray[Any], table: LabelTable, cell: dict[str, Any]) -> NDArray[Any]:
    channels = 1 if raw.ndim == 2 else raw.shape[2]
    bits = 8 * raw.dtype.itemsize
    if raw.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{_name(cell)}: labels are whole numbers of 8 or 16 bits, not {raw.dtype}")
    if table.reading is Reading.VALUE:
        if channels != 1:
            raise UserError(f"{_name(cell)}: a label picture has one channel, this has {channels}")
        return raw
    if channels < 3:
        raise UserError(
            f"{_name(cell)}: labels of the encoding '{table.name}' have three channels, "
            f"this has {channels}"
        )
    if bits != (16 if table.reading is Reading.RED else 8):
        raise UserError(
            f"{_name(cell)}: labels of the encoding '{table.name}' do not have {bits} bits"
        )
    # OpenCV's order is blue, green, red.
    if table.reading is Reading.RED:
        return np.ascontiguousarray(raw[..., 2])
    blue, green, red = (raw[..., channel].astype(np.uint32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _has_palette(data: bytes) -> bool:
    return (
        data.startswith(_PNG)
        and len(data) > _PNG_COLOUR_TYPE
        and data[_PNG_COLOUR_TYPE] == _PALETTE
    )


def _palette_indices(data: bytes, cell: dict[str, Any]) -> NDArray[np.uint8]:
    # OpenCV would expand the palette to colours.
    try:
        return np.array(Image.open(io.BytesIO(data)))
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        raise UserError(f"{_name(cell)}: not a label picture that Pillow can read") from error


def _decoded(data: bytes, flags: int) -> NDArray[Any] | None:
    if not data:
        return None
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if picture is None else np.asarray(picture)


def _is_raw(cell: dict[str, Any]) -> bool:
    return cell["bytes"] is None and str(cell["path"]).endswith(RAW_SUFFIX)


def _mapped(cell: dict[str, Any], channels: int) -> NDArray[np.uint8]:
    try:
        mapped = np.load(cell["path"], mmap_mode="r", allow_pickle=False)
    # What a broken header raises is up to numpy and to Python's own parser.
    except Exception as error:
        raise UserError(f"{_name(cell)}: missing, truncated or not a raw picture") from error
    if not isinstance(mapped, np.ndarray) or not mapped.size:
        raise UserError(f"{_name(cell)}: not a raw picture")
    shape_is_right = mapped.ndim == (3 if channels else 2) and mapped.shape[2:] in ((), (channels,))
    if mapped.dtype != np.uint8 or not shape_is_right:
        raise UserError(f"{_name(cell)}: not a raw picture (8 bits, {channels or 1} channels)")
    return np.asarray(mapped)


def _bytes(cell: dict[str, Any]) -> bytes:
    try:
        data = cell["bytes"] or Path(cell["path"]).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {_name(cell)}: {error.strerror}") from error
    if (data.startswith(_PNG) and b"IEND" not in data[-_PNG_TAIL:]) or (
        data.startswith(_JPEG) and b"\xff\xd9" not in data[-_JPEG_TAIL:]
    ):
        raise UserError(f"{_name(cell)}: the file is truncated")
    return bytes(data)


def _name(cell: dict[str, Any]) -> str:
    return str(cell["path"] or "a picture held in memory")
