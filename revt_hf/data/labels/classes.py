"""The 19 Cityscapes train ids: names, colours, ids in Cityscapes' own files, and subsets.

Names, ids and colours: cityscapesScripts ``labels.py`` (PyPI 2.3.0).
"""

import numpy as np
from numpy.typing import NDArray

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
CITYSCAPES_ID = {train_id: raw for train_id, (_, _, raw) in enumerate(_CITYSCAPES)}

# SYNTHIA has no terrain, truck or train; half of the papers also leave the three rarest out.
SUBSETS: dict[str, tuple[int, ...]] = {
    name: tuple(i for i, present in enumerate(CLASSES) if present not in absent)
    for name, absent in (
        ("synthia16", ("terrain", "truck", "train")),
        ("synthia13", ("terrain", "truck", "train", "wall", "fence", "pole")),
    )
}


def colourise(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Train ids (H, W), uint8 -> RGB image (H, W, 3), uint8; ignored pixels are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[:NUM_CLASSES] = PALETTE
    return table[labels]
