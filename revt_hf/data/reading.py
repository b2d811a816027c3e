"""The one door for images and labels: RGB arrays and train ids, as displayed; and resizing them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.decoding import ImageFile, decode_image, decode_raw, open_image
from revt_hf.data.labels import LabelTable

Pixel = TypeVar("Pixel", bound=np.generic)
Bytes: TypeAlias = NDArray[np.uint8]


class Label(NamedTuple):
    """Train ids (H, W), uint8, and what is wrong with them; empty where nothing is."""

    train_ids: Bytes
    unknown: dict[int, int]  # pixels of each raw value outside the encoding
    turned: str  # how its orientation differs from its image's
    size: str  # how its size differs from its image's; it may have been resized since


@dataclass(frozen=True)
class Decode:
    """Decodes rows of a domain; a transform of ``datasets.Dataset.with_transform``."""

    table: LabelTable
    # Resize (nearest) labels whose size is not their image's: for datasets known to have some.
    fit_labels: bool = False
    # Applied to every image with its name; keeps the size.
    change: Callable[[Bytes, str], Bytes] | None = None
    # True turns a label like its image, false by its own orientation; None does the latter, too,
    # and warns where the two differ.
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
        if "label" in rows:
            if self.follow_exif and "image" not in rows:
                raise UserError("labels are turned like their images: select 'image' too")
            sizes = [pixels.shape[:2] for pixels in decoded["image"]] if images else []
            pairs = zip_longest(labels, images, sizes)
            decoded["label"] = [self.train_ids(*pair) for pair in pairs]
        return decoded

    def one(self, row: dict[str, Any], max_size: tuple[int, int] | None) -> tuple[Bytes, Bytes]:
        """The image and the train ids of an undecoded row, resized to fit a max size, if any."""
        decoded = self({key: [value] for key, value in row.items()})
        image, label = decoded["image"][0], decoded["label"][0]
        if max_size is None:
            return image, label
        label = resize_label_to_fit(label, image.shape[:2], max_size)
        return resize_to_fit(image, max_size), label

    def train_ids(
        self,
        label: ImageFile,
        image: ImageFile | None = None,
        size: tuple[int, int] | None = None,
    ) -> Bytes:
        """Train ids (H, W), uint8; refuses a label with a problem, warns if only EXIF differs."""
        found = self.lenient(label, image, size)
        for value, count in found.unknown.items():
            raise UserError(f"{label.name}: {self.table.problem({value: count})}")
        if found.size and not self.fit_labels:
            raise UserError("; ".join(filter(None, (f"{label.name}: {found.size}", found.turned))))
        if found.turned and not found.size:
            _warn_once(f"{label.name}: {found.turned}")
        return found.train_ids

    def lenient(
        self, label: ImageFile, image: ImageFile | None, size: tuple[int, int] | None
    ) -> Label:
        """Decode a label and compare it with its image: its header and (height, width), if known.

        Nothing else of the image is used.
        """
        turn = (image if self.follow_exif and image else label).header.orientation
        train_ids, unknown = self.table.lenient(decode_raw(label, self.table, turn))
        if image is None or size is None:
            return Label(train_ids, unknown, "", "")
        turned = differs = ""
        turns = {"image is turned": image.header.orientation, "label": label.header.orientation}
        if self.follow_exif is None and len(set(turns.values())) > 1:
            shown = " and ".join(
                f"the {kind} {f'by EXIF orientation {by}' if by > 1 else 'not at all'}"
                for kind, by in turns.items()
            )
            turned = (
                f"{shown}: set the option labels_follow_exif to true if the label was drawn on the "
                "image as it is stored, to false if on the image as it is displayed"
            )
        height, width = train_ids.shape
        if (height, width) != size:
            differs = f"the label is {width}x{height}, its image {size[1]}x{size[0]}"
            if self.fit_labels:
                train_ids = _resized(train_ids, size, cv2.INTER_NEAREST)
        return Label(train_ids, unknown, turned, differs)


def class_pixels(label: Bytes) -> NDArray[np.int64]:
    """Pixels of each of the 256 values of a label (H, W), uint8."""
    # OpenCV 4 gives (256, 1), OpenCV 5 (256,).
    counts = cv2.calcHist([np.ascontiguousarray(label)], [0], None, [256], [0, 256])
    return counts.reshape(-1).astype(np.int64)


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=2)


def read_image(cell: dict[str, Any]) -> Bytes:
    """Decode an undecoded ``datasets.Image`` cell to RGB (H, W, 3), uint8, turned as displayed."""
    return decode_image(open_image(cell))


def read_label(cell: dict[str, Any], table: LabelTable) -> Bytes:
    """Decode an undecoded label cell to train ids (H, W), uint8, turned by its own orientation."""
    return Decode(table).train_ids(open_image(cell))


def fit_size(height: int, width: int, max_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image scaled up or down to fit a max size, long side to long side."""
    if min(max_size) < 1:
        shown = f"max size {max_size[0]}x{max_size[1]}"
        raise UserError(f"{shown}: both sides must be at least 1 pixel")
    # As ``mmcv.imrescale``, which the original's training and test pipelines use.
    factor = min(max(max_size) / max(height, width), min(max_size) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_label_to_fit(
    label: Bytes, image_size: tuple[int, int], max_size: tuple[int, int]
) -> Bytes:
    """Resize train ids (H, W), nearest, like an image of ``image_size`` (height, width)."""
    return _resized(label, fit_size(*image_size, max_size), cv2.INTER_NEAREST)


def resize_to_fit(
    image: NDArray[Pixel], max_size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR
) -> NDArray[Pixel]:
    """Resize an image (H, W, C) or a label (H, W) to ``fit_size``; the dtype stays."""
    return _resized(image, fit_size(image.shape[0], image.shape[1], max_size), interpolation)


def _resized(pixels: NDArray[Pixel], size: tuple[int, int], interpolation: int) -> NDArray[Pixel]:
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=interpolation), pixels.dtype)
