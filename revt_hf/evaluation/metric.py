"""Confusion matrices, the IoU and accuracy of them, and mean IoU as an ``evaluate.Metric``."""

from collections.abc import Sequence
from typing import Any

import cv2
import datasets
import evaluate
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
    """Pixels by label 0..18 (rows) and prediction (columns); 255 in labels is ignored."""
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
    if matrix.sum() == 0:
        raise UserError("no labelled pixel was counted: there is nothing to score")
    hit = np.diag(matrix).astype(np.float64)
    labelled = matrix.sum(axis=1).astype(np.float64)
    iou = _shares(hit, labelled + matrix.sum(axis=0) - hit)
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


class MeanIoU(evaluate.Metric):
    """Dataset-level mean IoU; with several processes, sum ``matrix`` over the ranks."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.matrix: NDArray[np.int64] = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)

    def _info(self) -> evaluate.MetricInfo:
        image = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        return evaluate.MetricInfo(
            description="Dataset-level mean IoU from a running confusion matrix.",
            citation="",
            inputs_description=(
                "predictions: (H, W) train ids 0..18; references: (H, W) train ids 0..18, 255 is "
                "ignored; both uint8, at the label's own size."
            ),
            features=datasets.Features({"predictions": image, "references": image}),
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Count one image; both are (H, W) train ids."""
        if prediction is None or reference is None or kwargs:
            raise ValueError("give prediction and reference, nothing else")
        self.matrix += confusion_matrix(_uint8(reference), _uint8(prediction))

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Count several images, which may differ in size."""
        if predictions is None or references is None or kwargs:
            raise ValueError("give predictions and references, nothing else")
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> Any:
        """The scores of everything added and given here; then start again."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references, **kwargs)
        result = scores_from(self.matrix).model_dump()
        self.matrix = np.zeros_like(self.matrix)
        return result


def _uint8(values: Any) -> NDArray[np.uint8]:
    array = np.asarray(values)
    if array.dtype != np.uint8:
        if array.size and (array.min() < 0 or array.max() > 255):
            raise ValueError("train ids are 0..18 and 255")
        array = array.astype(np.uint8)
    return array
