"""Classes and label encodings: how the field counts, and how each dataset writes it down."""

from revt_hf.data.labels.classes import (
    CLASSES,
    IGNORE_INDEX,
    NUM_CLASSES,
    PALETTE,
    SUBSETS,
    TRAIN_ID,
    colourise,
)
from revt_hf.data.labels.encodings import CITYSCAPES_IDS, ENCODINGS, TRAIN_IDS, label_table
from revt_hf.data.labels.tables import LabelTable, Reading

__all__ = [
    "CITYSCAPES_IDS",
    "CLASSES",
    "ENCODINGS",
    "IGNORE_INDEX",
    "NUM_CLASSES",
    "PALETTE",
    "SUBSETS",
    "TRAIN_ID",
    "TRAIN_IDS",
    "LabelTable",
    "Reading",
    "colourise",
    "label_table",
]
