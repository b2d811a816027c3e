"""The one door for images and labels: RGB arrays and train ids, both as displayed."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.decoding import ImageFile, decode_image, decode_raw, open_image
from revt_hf.data.labels import LabelTable


@dataclass(frozen=True)
class Decode:
    """Decode rows of a domain; pass it to ``datasets.Dataset.with_transform``.

    Gives ``image`` (H, W, 3) uint8 RGB, ``label`` (H, W) uint8 train ids and ``name``.

    Attributes:
        table: maps raw label values to train ids.
        fit_labels: resize (nearest) a label whose size is not its image's, instead of refusing it;
            for datasets that are known to have such labels.
        change: applied to every decoded image (H, W, 3), uint8, RGB, with the image's name; must
            keep its size.
        follow_exif: true turns a label like its image, false by its own orientation; None does the
            latter, too, and warns where the two differ.
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
                if "name" not in rows:
                    raise UserError(
                        "these images are changed by their names: select the column 'name' too"
                    )
                decoded["image"] = list(map(self.change, decoded["image"], rows["name"]))
        if "label" in rows and "image" not in rows:
            if self.follow_exif:
                raise UserError("labels are turned like their images: select 'image' too")
            decoded["label"] = [_train_ids(label, self.table) for label in labels]
        elif "label" in rows:
            decoded["label"] = list(map(self._label, images, labels, decoded["image"]))
        return decoded

    def _label(
        self, image: ImageFile, label: ImageFile, pixels: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        found = _train_ids(label, self.table, label_turn(image, label, self.follow_exif))
        apart = turned_apart(image, label, self.follow_exif)
        difference = size_difference(pixels, found)
        if difference is None:
            if apart:
                _warn_once(f"{label.name}: {apart}")
            return found
        if not self.fit_labels:
            raise UserError(f"{label.name}: {difference}{'; ' if apart else ''}{apart or ''}")
        return fitted(found, pixels)


def turned_apart(image: ImageFile, label: ImageFile, follow_exif: bool | None) -> str | None:
    """How the orientations of an image and its label differ; None if they agree or it is meant."""
    turns = {"image is turned": image.header.orientation, "label": label.header.orientation}
    if follow_exif is not None or len(set(turns.values())) == 1:
        return None
    shown = " and ".join(
        f"the {kind} {f'by EXIF orientation {turn}' if turn > 1 else 'not at all'}"
        for kind, turn in turns.items()
    )
    return (
        f"{shown}: set the option labels_follow_exif to true if the label was drawn on the image "
        "as it is stored, to false if on the image as it is displayed"
    )


def label_turn(image: ImageFile | None, label: ImageFile, follow_exif: bool | None) -> int:
    """The EXIF orientation to apply to a label."""
    return (image if follow_exif and image else label).header.orientation


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=2)


def size_difference(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> str | None:
    """How a label's size differs from its image's; None if it does not."""
    (height, width), (rows, columns) = image.shape[:2], label.shape
    if (height, width) == (rows, columns):
        return None
    return f"the label is {columns}x{rows}, its image {width}x{height}"


def fitted(label: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize a label (H, W) to its image's size, nearest neighbour."""
    resized = cv2.resize(label, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.uint8)


def read_image(cell: dict[str, Any]) -> NDArray[np.uint8]:
    """Decode an undecoded ``datasets.Image`` cell to RGB (H, W, 3), uint8, turned as displayed.

    A raw array (``.npy``) is mapped into memory, so only the part that is used is read.

    Raises:
        UserError: see :func:`open_image`; or it is not an image.
    """
    return decode_image(open_image(cell))


def read_label(cell: dict[str, Any], table: LabelTable) -> NDArray[np.uint8]:
    """Decode an undecoded label cell to train ids (H, W), uint8, turned by its own orientation.

    Raises:
        UserError: as :func:`decode_raw`, or a value is not in the encoding.
    """
    return _train_ids(open_image(cell), table)


def _train_ids(
    file: ImageFile, table: LabelTable, orientation: int | None = None
) -> NDArray[np.uint8]:
    raw = decode_raw(file, table, orientation)
    try:
        return table(raw)
    except UserError as error:
        raise UserError(f"{file.name}: {error}") from error
