"""Confusion matrices, and the IoU and accuracy computed from them."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, NUM_CLASSES, SUBSETS
from revt_hf.evaluation.result import Scores

# calcHist counts in float32, which is exact up to here.
_EXACT_COUNTS = 2**24


def confusion_matrix(
    labels: NDArray[np.uint8], predictions: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Count pixels by label (rows) and prediction (columns), without ignored ones.

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
    iou = _shares(hit, union)
    return Scores(
        mIoU=float(np.mean([value for value in iou if value is not None])),
        aAcc=float(hit.sum() / labelled.sum() * 100),
        IoU=dict(zip(CLASSES, iou, strict=True)),
        Acc=dict(zip(CLASSES, _shares(hit, labelled), strict=True)),
        subsets={name: _mean([iou[train_id] for train_id in ids]) for name, ids in SUBSETS.items()},
    )


def _shares(hit: NDArray[np.float64], of: NDArray[np.float64]) -> list[float | None]:
    """In percent; None where there is nothing."""
    return [float(h / n * 100) if n else None for h, n in zip(hit, of, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
