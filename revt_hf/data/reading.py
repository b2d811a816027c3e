"""Rows of a domain as arrays: images as RGB, labels as train ids by table, both as displayed."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.decoding import ImageFile, decode_image, decode_raw, open_image
from revt_hf.data.labels import LabelTable


@dataclass(frozen=True)
class Decode:
    """Turn rows of a domain into arrays; given to ``datasets.Dataset.with_transform``.

    Gives ``image`` (H, W, 3) uint8 RGB, ``label`` (H, W) uint8 train ids and ``name``.

    Attributes:
        table: from raw label values to train ids.
        fit_labels: resize (nearest) a label whose size is not its image's, instead of refusing it;
            for datasets that are known to have such labels.
        change: what becomes of an image (H, W, 3), uint8, RGB, of that name once it is decoded;
            its size stays.
        follow_exif: turn a label like its image; if false by its own orientation, as with None,
            which warns where the two differ.
    """

    table: LabelTable
    fit_labels: bool = False
    change: Callable[[NDArray[np.uint8], str], NDArray[np.uint8]] | None = None
    follow_exif: bool | None = None

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        decoded: dict[str, list[Any]] = {key: list(values) for key, values in rows.items()}
        images = [open_image(cell) for cell in rows.get("image", [])]
        labels = [open_image(cell) for cell in rows.get("label", [])]
        if "image" in rows:
            decoded["image"] = [decode_image(image) for image in images]
            if self.change is not None:
                decoded["image"] = self._changed(self.change, decoded)
        if "label" in rows and "image" not in rows:
            if self.follow_exif:
                raise UserError("labels are turned like their images: select 'image' too")
            decoded["label"] = [decode_label(label, self.table) for label in labels]
        elif "label" in rows:
            decoded["label"] = [
                self._label(*pair) for pair in zip(images, labels, decoded["image"], strict=True)
            ]
        return decoded

    def _changed(
        self, change: Callable[..., NDArray[np.uint8]], rows: dict[str, list[Any]]
    ) -> list[NDArray[np.uint8]]:
        if "name" not in rows:
            raise UserError("these images are changed by their names: select the column 'name' too")
        return [change(*row) for row in zip(rows["image"], rows["name"], strict=True)]

    def _label(
        self, image: ImageFile, label: ImageFile, pixels: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        found = decode_label(label, self.table, label_turn(image, label, self.follow_exif))
        apart = turned_apart(image, label, self.follow_exif)
        difference = size_difference(pixels, found)
        if difference is None:
            if apart:
                _warn_once(str(Path(label.name).parent), f"{label.name}: {apart}")
            return found
        if not self.fit_labels:
            raise UserError(f"{label.name}: {difference}{'; ' if apart else ''}{apart or ''}")
        return fitted(found, pixels)


def turned_apart(image: ImageFile, label: ImageFile, follow_exif: bool | None) -> str | None:
    """How the orientations of an image and its label differ; None if that is meant or not so."""
    turns = image.header.orientation, label.header.orientation
    if follow_exif is not None or turns[0] == turns[1]:
        return None
    shown = " and ".join(
        f"the {kind} {f'by EXIF orientation {turn}' if turn > 1 else 'not at all'}"
        for kind, turn in zip(("image is turned", "label"), turns, strict=True)
    )
    return (
        f"{shown}: set the option labels_follow_exif to true if the label was drawn on the image "
        "as it is stored, to false if on the image as it is displayed"
    )


def label_turn(image: ImageFile | None, label: ImageFile, follow_exif: bool | None) -> int:
    """The EXIF orientation that a label is turned by."""
    return (image if follow_exif and image else label).header.orientation


@cache
def _warn_once(folder: str, text: str = "") -> None:
    warnings.warn(text, DataWarning, stacklevel=2)


def size_difference(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> str | None:
    """How a label's size differs from its image's; None if it does not."""
    if image.shape[:2] == label.shape:
        return None
    return (
        f"the label is {label.shape[1]}x{label.shape[0]}, its image "
        f"{image.shape[1]}x{image.shape[0]}"
    )


def fitted(label: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A label at its image's size, nearest neighbour."""
    height, width = image.shape[:2]
    resized = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.uint8)


def read_image(cell: dict[str, Any]) -> NDArray[np.uint8]:
    """Decode an undecoded ``datasets.Image`` cell to RGB (H, W, 3), uint8, turned as displayed.

    A raw array (``.npy``) is mapped into memory: only what is used of it is read.

    Raises:
        UserError: see :func:`open_image`; or it is not an image.
    """
    return decode_image(open_image(cell))


def read_label(cell: dict[str, Any], table: LabelTable) -> NDArray[np.uint8]:
    """Decode an undecoded label cell to train ids (H, W), uint8, turned by its own orientation.

    Raises:
        UserError: as :func:`decode_raw`, or it holds a value that the encoding does not have.
    """
    return decode_label(open_image(cell), table)


def decode_label(
    file: ImageFile, table: LabelTable, orientation: int | None = None
) -> NDArray[np.uint8]:
    """Train ids (H, W), uint8; see :func:`decode_raw`.

    Raises:
        UserError: as there, or it holds a value that the encoding does not have.
    """
    raw = decode_raw(file, table, orientation)
    try:
        return table(raw)
    except UserError as error:
        raise UserError(f"{file.name}: {error}") from error
