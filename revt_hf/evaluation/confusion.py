"""A running confusion matrix and the IoU that comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, NUM_CLASSES, SUBSETS

# calcHist counts in float32, which is exact up to here.
_EXACT_COUNTS = 2**24


@dataclass(frozen=True)
class Scores:
    """Data-set-level results in percent.

    A class without a single labelled or predicted pixel has no IoU (None) and does not enter the
    mean; one that is only predicted has IoU 0 and does. Accuracy is None for classes without
    labelled pixels. This is mmsegmentation 0.x ``core/evaluation/metrics.py`` (``mean_iou``).
    """

    miou: float
    iou: dict[str, float | None]
    accuracy: dict[str, float | None]
    aacc: float

    def miou_of(self, train_ids: Sequence[int]) -> float | None:
        """Mean IoU over some classes, by the same rule; None if none of them has an IoU."""
        values = [self.iou[CLASSES[train_id]] for train_id in train_ids]
        present = [value for value in values if value is not None]
        return float(np.mean(present)) if present else None

    def to_json(self) -> dict[str, Any]:
        """``mIoU``, ``aAcc``, ``IoU`` and ``Acc`` by class, ``subsets`` (name -> mIoU or None)."""
        return {
            "mIoU": self.miou,
            "aAcc": self.aacc,
            "IoU": self.iou,
            "Acc": self.accuracy,
            "subsets": {name: self.miou_of(ids) for name, ids in SUBSETS.items()},
        }


def confusion_matrix(
    labels: NDArray[np.uint8], predictions: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Count pixels by label (rows) and prediction (columns), ignored ones left out.

    Args:
        labels: (H, W) uint8, 0..18 and 255.
        predictions: (H, W) uint8, 0..18.

    Returns:
        (19, 19) int64.

    Raises:
        ValueError: another shape or dtype, or a value out of range.
    """
    if labels.shape != predictions.shape or labels.ndim != 2:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ")
    if labels.dtype != np.uint8 or predictions.dtype != np.uint8:
        raise ValueError("labels and predictions must be uint8")
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    rows = max(1, _EXACT_COUNTS // max(1, labels.shape[1]))
    for top in range(0, labels.shape[0], rows):
        total += _count(labels[top : top + rows], predictions[top : top + rows])
    return total


def _count(labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> NDArray[np.int64]:
    span = [0, NUM_CLASSES]
    joint = cv2.calcHist(
        [labels, predictions], [0, 1], None, [NUM_CLASSES, NUM_CLASSES], [*span, *span]
    ).astype(np.int64)
    by_value = cv2.calcHist([labels], [0], None, [256], [0, 256]).astype(np.int64).reshape(-1)
    valid = by_value[:NUM_CLASSES].sum()
    if valid + by_value[IGNORE_INDEX] != labels.size:
        outside = np.flatnonzero(by_value[NUM_CLASSES:IGNORE_INDEX])[0] + NUM_CLASSES
        raise ValueError(f"label {outside} is neither a train id nor {IGNORE_INDEX}")
    if joint.sum() != valid:
        raise ValueError(f"a prediction is {predictions.max()}, train ids end at 18")
    return joint


def scores_from(matrix: NDArray[np.int64]) -> Scores:
    """IoU, accuracy and their means of a (19, 19) confusion matrix; see :class:`Scores`.

    Raises:
        UserError: an empty matrix.
    """
    if matrix.sum() == 0:
        raise UserError("no labelled pixel was counted: there is nothing to score")
    hit = np.diag(matrix).astype(np.float64)
    labelled = matrix.sum(axis=1).astype(np.float64)
    union = labelled + matrix.sum(axis=0) - hit
    iou = [h / u * 100 if u else None for h, u in zip(hit, union, strict=True)]
    accuracy = [h / n * 100 if n else None for h, n in zip(hit, labelled, strict=True)]
    return Scores(
        miou=float(np.mean([value for value in iou if value is not None])),
        iou=dict(zip(CLASSES, map(_plain, iou), strict=True)),
        accuracy=dict(zip(CLASSES, map(_plain, accuracy), strict=True)),
        aacc=float(hit.sum() / labelled.sum() * 100),
    )


def _plain(value: float | None) -> float | None:
    return None if value is None else float(value)
