"""Confusion matrices, the IoU and accuracy of them, and mean IoU as an ``evaluate.Metric``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import datasets
import evaluate
import numpy as np
import torch
from accelerate.utils import reduce
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.core.processes import Processes
from revt_hf.data.label_space import CITYSCAPES, IGNORE_INDEX, LabelSpace
from revt_hf.evaluation.calibration import Calibration
from revt_hf.evaluation.confidence import ConfidenceSums
from revt_hf.evaluation.result import Scores

# calcHist counts in float32, which is exact up to here.
_EXACT_COUNTS = 2**24


def confusion_matrix(
    labels: NDArray[np.uint8],
    predictions: NDArray[np.uint8],
    classes: int,
    columns: int | None = None,
) -> NDArray[np.int64]:
    """Pixels by label (rows) and prediction (columns), ids below ``classes``; labels may be 255.

    With one column more, predictions may be 255, too: no class of these, counted in the last one.
    """
    if labels.shape != predictions.shape or labels.ndim != 2:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ")
    if labels.dtype != np.uint8 or predictions.dtype != np.uint8:
        raise ValueError("labels and predictions must be uint8")
    total = np.zeros((classes, columns or classes), dtype=np.int64)
    rows = max(1, _EXACT_COUNTS // max(1, labels.shape[1]))
    for top in range(0, labels.shape[0], rows):
        _count(total, labels[top : top + rows], predictions[top : top + rows])
    return total


def _count(
    total: NDArray[np.int64], labels: NDArray[np.uint8], predictions: NDArray[np.uint8]
) -> None:
    classes = len(total)
    span = [0, classes]
    joint = cv2.calcHist(
        [labels, predictions], [0, 1], None, [classes, classes], [*span, *span]
    ).astype(np.int64)
    by_value = cv2.calcHist([labels], [0], None, [256], [0, 256]).astype(np.int64).reshape(-1)
    valid = by_value[:classes]
    if valid.sum() + by_value[IGNORE_INDEX] != labels.size:
        outside = np.flatnonzero(by_value[classes:IGNORE_INDEX])[0] + classes
        raise ValueError(f"label {outside} is neither a class id nor {IGNORE_INDEX}")
    total[:, :classes] += joint
    lost = valid - joint.sum(axis=1)
    if total.shape[1] > classes:
        total[:, classes] += lost
        lost -= np.bincount(labels[predictions == IGNORE_INDEX], minlength=256)[:classes]
    if lost.any():
        raise ValueError(f"a prediction is {predictions.max()}, class ids end at {classes - 1}")


@dataclass
class Sums:
    """Confusion matrix (n, n), and loss (nats) over labelled pixels, summed over images.

    With a mapping it is (n, n + 1): the last column counts predictions without a counterpart.
    """

    matrix: NDArray[np.int64]
    loss: float = 0.0
    pixels: int = 0
    confidence: ConfidenceSums | None = None

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.pixels, 1)

    @property
    def calibration(self) -> Calibration | None:
        return self.confidence.calibration() if self.confidence else None

    @classmethod
    def of(cls, classes: int, is_mapped: bool, calibration: bool) -> "Sums":
        """Nothing yet."""
        matrix = np.zeros((classes, classes + is_mapped), np.int64)
        return cls(matrix, confidence=ConfidenceSums() if calibration else None)


def summed(own: Sums, processes: Processes) -> Sums:
    """The sums over all processes; exact where they count, in float32 for the loss."""

    def total(part: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = reduce(part.to(processes.device), "sum").cpu()
        return found

    parts = (torch.tensor(own.loss), torch.tensor(own.pixels), torch.from_numpy(own.matrix))
    loss, pixels, matrix = map(total, parts)
    together = Sums(matrix.numpy(), float(loss), int(pixels))
    if own.confidence is not None:
        arrays = (total(torch.from_numpy(part)).numpy() for part in vars(own.confidence).values())
        together.confidence = ConfidenceSums(*arrays)
    return together


def mean_iou(matrix: NDArray[np.int64]) -> float:
    """Mean IoU in percent, 0..100, over the classes that occur."""
    return float(np.mean([value for value in _iou(matrix) if value is not None]))


def _iou(matrix: NDArray[np.int64]) -> list[float | None]:
    if matrix.sum() == 0:
        raise UserError("no labelled pixel was counted: there is nothing to score")
    hit = np.diag(matrix).astype(np.float64)
    predicted = matrix.sum(axis=0)[: len(hit)]
    return _shares(hit, matrix.sum(axis=1).astype(np.float64) + predicted - hit)


def scores_from(matrix: NDArray[np.int64], space: LabelSpace) -> Scores:
    """Scores of a confusion matrix (n, n), or (n, n + 1) with predictions of no class."""
    iou = _iou(matrix)
    hit = np.diag(matrix).astype(np.float64)
    labelled = matrix.sum(axis=1).astype(np.float64)
    has_lost = matrix.shape[1] > len(hit)
    return Scores(
        mIoU=mean_iou(matrix),
        aAcc=float(hit.sum() / labelled.sum() * 100),
        IoU=dict(zip(space.classes, iou, strict=True)),
        Acc=dict(zip(space.classes, _shares(hit, labelled), strict=True)),
        subsets={name: _mean([iou[one] for one in ids]) for name, ids in space.subsets.items()},
        lost=float(matrix[:, -1].sum() / labelled.sum() * 100) if has_lost else None,
    )


def _shares(hit: NDArray[np.float64], of: NDArray[np.float64]) -> list[float | None]:
    """In percent; None where there is nothing."""
    return [float(h / n * 100) if n else None for h, n in zip(hit, of, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


class MeanIoU(evaluate.Metric):
    """Dataset-level mean IoU; with several processes, sum ``matrix`` over the ranks."""

    def __init__(self, space: LabelSpace = CITYSCAPES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.space = space
        self.matrix: NDArray[np.int64] = np.zeros((len(space), len(space)), dtype=np.int64)

    def _info(self) -> evaluate.MetricInfo:
        image = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        return evaluate.MetricInfo(
            description="Dataset-level mean IoU from a running confusion matrix.",
            citation="",
            inputs_description=(
                "predictions: (H, W) class ids; references: (H, W) class ids, 255 is ignored; both "
                "uint8, at the label's own size."
            ),
            features=datasets.Features({"predictions": image, "references": image}),
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Count one image; both are (H, W) class ids."""
        if prediction is None or reference is None or kwargs:
            raise ValueError("give prediction and reference, nothing else")
        self.matrix += confusion_matrix(_uint8(reference), _uint8(prediction), len(self.space))

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
        result = scores_from(self.matrix, self.space).model_dump()
        self.matrix = np.zeros_like(self.matrix)
        return result


def _uint8(values: Any) -> NDArray[np.uint8]:
    array = np.asarray(values)
    if array.dtype != np.uint8:
        if array.size and (array.min() < 0 or array.max() > 255):
            raise ValueError("class ids are 0..253 and 255")
        array = array.astype(np.uint8)
    return array
