"""Mean IoU as an ``evaluate.Metric`` that keeps a confusion matrix instead of the images."""

from collections.abc import Iterable
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from revt_hf.data.labels import NUM_CLASSES
from revt_hf.evaluation.confusion import confusion_matrix, scores_from


class MeanIoU(evaluate.Metric):
    """Data-set-level mean IoU over the 19 classes; memory does not grow with the images.

    ``add`` and ``add_batch`` count immediately. Works offline. With several processes, sum
    ``metric.matrix`` (19, 19) int64 over the ranks: the result is exactly that of one process.
    """

    matrix: NDArray[np.int64]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.matrix = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)

    def _info(self) -> evaluate.MetricInfo:
        image = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        return evaluate.MetricInfo(
            description="Data-set-level mean IoU from a running confusion matrix.",
            citation="",
            inputs_description=(
                "predictions: (H, W) train ids 0..18; references: (H, W) train ids 0..18, 255 is "
                "ignored; both uint8, at the label's own size."
            ),
            features=datasets.Features({"predictions": image, "references": image}),
        )

    def add(
        self,
        *,
        prediction: NDArray[np.uint8] | None = None,
        reference: NDArray[np.uint8] | None = None,
        **kwargs: Any,
    ) -> None:
        """Count one image: ``prediction`` and ``reference`` are (H, W) train ids.

        Raises:
            ValueError: shapes differ or a value is out of range.
        """
        if prediction is None or reference is None or kwargs:
            raise ValueError("give prediction and reference, nothing else")
        self.matrix += confusion_matrix(_uint8(reference), _uint8(prediction))

    def add_batch(
        self,
        *,
        predictions: Iterable[NDArray[np.uint8]] | None = None,
        references: Iterable[NDArray[np.uint8]] | None = None,
        **kwargs: Any,
    ) -> None:
        """Count several images, which may differ in size.

        Raises:
            ValueError: shapes differ or a value is out of range.
        """
        if predictions is None or references is None or kwargs:
            raise ValueError("give predictions and references, nothing else")
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> Any:
        """The scores of everything added and given here; then start again.

        Returns:
            ``mIoU`` and ``aAcc`` (0..100), ``IoU`` and ``Acc`` (class name -> 0..100 or None),
            and ``subsets`` (``synthia16``, ``synthia13`` -> mIoU over those classes, or None).

        Raises:
            ValueError: nothing was counted.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references, **kwargs)
        result = scores_from(self.matrix).model_dump()
        self.matrix = np.zeros_like(self.matrix)
        return result

    def _compute(self, **kwargs: Any) -> dict[str, Any]:
        raise RuntimeError("compute() is overridden")


def _uint8(values: Any) -> NDArray[np.uint8]:
    array = np.asarray(values)
    if array.dtype != np.uint8:
        if array.size and (array.min() < 0 or array.max() > 255):
            raise ValueError("train ids are 0..18 and 255")
        array = array.astype(np.uint8)
    return array
