"""Rows of the evaluation: one Cityscapes-sized image."""

from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.runner import Pair, row
from revt_hf.data.label_space import IGNORE_INDEX, NUM_CLASSES
from revt_hf.evaluation.class_maps import class_map
from revt_hf.evaluation.metric import MeanIoU

HEIGHT, WIDTH = 1024, 2048


class PlainMeanIoU(evaluate.Metric):
    """Mean IoU as the library's own module goes about it.

    Images are stored in an Arrow table as nested lists; ``compute`` reads them all back and
    counts each with ``np.histogram``.
    """

    def _info(self) -> evaluate.MetricInfo:
        image = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))
        return evaluate.MetricInfo(
            description="",
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": image, "references": image}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        totals = np.zeros((3, NUM_CLASSES))
        for prediction, reference in zip(predictions, references, strict=True):
            predicted, labelled = np.array(prediction), np.array(reference)
            valid = labelled != IGNORE_INDEX
            predicted, labelled = predicted[valid], labelled[valid]
            for index, values in enumerate((predicted[predicted == labelled], predicted, labelled)):
                totals[index] += np.histogram(values, NUM_CLASSES, (0, NUM_CLASSES))[0]
        iou = totals[0] / (totals[1] + totals[2] - totals[0])
        return {"mIoU": float(np.nanmean(iou)) * 100}


def _labels() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, NUM_CLASSES, (16, 32), dtype=np.uint8)
    labels = coarse.repeat(HEIGHT // 16, 0).repeat(WIDTH // 32, 1)
    predictions = labels.copy()
    wrong = rng.random(labels.shape) < 0.2
    predictions[wrong] = rng.integers(0, NUM_CLASSES, int(wrong.sum()), dtype=np.uint8)
    labels[: HEIGHT // 10] = IGNORE_INDEX
    return labels, predictions


def _scored(metric: evaluate.Metric, labels: Any, predictions: Any) -> float:
    metric.add_batch(predictions=[predictions], references=[labels])
    return float(metric.compute()["mIoU"])


@row(
    "mean-iou",
    peer="the stock evaluate route: Arrow table, np.histogram",
    goal=15,
    tolerance=1e-9,
    repeats=5,
    memory=True,
)
def mean_iou() -> Pair:
    """One 1024x2048 pair, counted and computed."""
    labels, predictions = _labels()
    return Pair(
        lambda: _scored(PlainMeanIoU(), labels, predictions),
        lambda: _scored(MeanIoU(), labels, predictions),
        lambda peer, ours: abs(peer - ours),
    )


@row("class-map", peer="interpolate + argmax", goal=10, repeats=9, memory=True)
def class_map_row() -> Pair:
    """Logits 19x256x512 to a 1024x2048 class map; the difference counts pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, NUM_CLASSES, 16, 32, generator=generator) * 5
    logits = functional.interpolate(coarse, size=(HEIGHT // 4, WIDTH // 4), mode="bicubic")[0]

    def peer() -> NDArray[Any]:
        full = functional.interpolate(
            logits[None], size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False
        )
        return full.argmax(1)[0].numpy()

    size = (HEIGHT, WIDTH)
    return Pair(
        peer,
        lambda: class_map(logits, size, size),
        lambda theirs, ours: int((theirs != ours).sum()),
    )
