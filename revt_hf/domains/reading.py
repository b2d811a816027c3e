"""Decode pictures and labels: OpenCV on raw bytes, raw label values to train ids by table."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from revt_hf.errors import UserError
from revt_hf.labels import LabelTable

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_PNG_COLOUR_TYPE = 25
_PALETTE = 3
# Decoders fill a truncated picture up without a word; its missing end marker tells.
_TAIL = 64


@dataclass(frozen=True)
class Decode:
    """Turn rows of a domain into arrays; given to ``datasets.Dataset.with_transform``.

    Gives ``image`` (H, W, 3) uint8 RGB, ``label`` (H, W) uint8 train ids and ``name``.
    """

    table: LabelTable

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        decoded: dict[str, list[Any]] = {key: list(values) for key, values in rows.items()}
        if "image" in rows:
            decoded["image"] = [read_image(cell) for cell in rows["image"]]
        if "label" in rows:
            decoded["label"] = [read_label(cell, self.table) for cell in rows["label"]]
        if "image" in rows and "label" in rows:
            for cell, image, label in zip(
                rows["label"], decoded["image"], decoded["label"], strict=True
            ):
                _check_same_size(cell, image, label)
        return decoded


def read_image(cell: dict[str, Any]) -> NDArray[np.uint8]:
    """Decode an undecoded ``datasets.Image`` cell to RGB (H, W, 3), uint8.

    Raises:
        UserError: the file is missing, truncated or not a picture.
    """
    data = _bytes(cell)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise UserError(f"{_name(cell)}: not a picture that OpenCV can read")
    return np.asarray(picture, dtype=np.uint8)


def read_label(cell: dict[str, Any], table: LabelTable) -> NDArray[np.uint8]:
    """Decode an undecoded label cell to train ids (H, W), uint8.

    Palette pictures give their indices, never their colours.

    Raises:
        UserError: the file is missing, truncated, not single-channel, or holds a value that the
            encoding does not have.
    """
    data = _bytes(cell)
    if data.startswith(_PNG) and data[_PNG_COLOUR_TYPE] == _PALETTE:
        # OpenCV would expand the palette to colours.
        raw: Any = np.asarray(Image.open(io.BytesIO(data)))
    else:
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise UserError(f"{_name(cell)}: not a label picture that OpenCV can read")
    if raw.ndim != 2:
        raise UserError(f"{_name(cell)}: a label picture has one channel, this has {raw.shape[-1]}")
    if raw.dtype != np.uint8:
        if raw.max(initial=0) > 255:
            raise UserError(
                f"{_name(cell)}: label value {int(raw.max())} is not in the encoding '{table.name}'"
            )
        raw = raw.astype(np.uint8)
    try:
        return table(raw)
    except UserError as error:
        raise UserError(f"{_name(cell)}: {error}") from error


def _check_same_size(
    cell: dict[str, Any], image: NDArray[np.uint8], label: NDArray[np.uint8]
) -> None:
    if image.shape[:2] != label.shape:
        raise UserError(
            f"{_name(cell)}: the label is {label.shape[1]}x{label.shape[0]}, its picture "
            f"{image.shape[1]}x{image.shape[0]}"
        )


def _bytes(cell: dict[str, Any]) -> bytes:
    try:
        data = cell["bytes"] or Path(cell["path"]).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {_name(cell)}: {error.strerror}") from error
    tail = data[-_TAIL:]
    if (data.startswith(_PNG) and b"IEND" not in tail) or (
        data.startswith(_JPEG) and b"\xff\xd9" not in tail
    ):
        raise UserError(f"{_name(cell)}: the file is truncated")
    return bytes(data)


def _name(cell: dict[str, Any]) -> str:
    return str(cell["path"] or "a picture held in memory")
