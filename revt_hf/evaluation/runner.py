"""Evaluate models on domains: one picture decoded once for all models."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import SegformerForSemanticSegmentation

from revt_hf.domains import domain_label, label_encoding
from revt_hf.evaluation.confusion import confusion_matrix
from revt_hf.evaluation.inference import Protocol, predict
from revt_hf.evaluation.metric import MeanIoU
from revt_hf.labels import NUM_CLASSES
from revt_hf.recipe import DomainSpec


@dataclass(frozen=True)
class SplitSpec:
    """A split to score on, and whether it belongs to the models' training domain."""

    spec: DomainSpec
    split: str
    is_source: bool

    @property
    def label(self) -> str:
        """A short name for tables."""
        return domain_label(self.spec, self.split)


@dataclass(frozen=True)
class Evaluated:
    """A model, what it was scored on, and what came out."""

    model: str
    split: SplitSpec
    images: int
    label_encoding: str | None
    protocol: Protocol
    scores: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The object that ``revt evaluate --json`` writes."""
        return {
            "model": self.model,
            "domain": self.split.spec.domain,
            "config": self.split.spec.config,
            "split": self.split.split,
            "data_dir": self.split.spec.data_dir,
            "label": self.split.label,
            "is_source": self.split.is_source,
            **self.scores,
            "images": self.images,
            "label_encoding": self.label_encoding,
            "protocol": {**asdict(self.protocol), "resize": "keep ratio"},
        }


def evaluate_models(
    models: dict[str, SegformerForSemanticSegmentation],
    pictures: Any,
    split: SplitSpec,
    protocol: Protocol,
    on_picture: Callable[[], object] = lambda: None,
) -> list[Evaluated]:
    """Score every model on one split.

    Args:
        models: by the name that results carry; in eval mode.
        pictures: rows with ``image`` and ``label`` as :func:`revt_hf.domains.load_domain` gives.
        split: where the pictures come from; results carry it.
        protocol: see :class:`Protocol`.
        on_picture: called after each picture, for a progress bar.
    """
    metrics = {name: MeanIoU() for name in models}
    for row in pictures:
        for name, model in models.items():
            prediction = predict(model, row["image"], protocol)
            metrics[name].add(prediction=prediction, reference=row["label"])
        on_picture()
    encoding = label_encoding(pictures)
    return [
        Evaluated(name, split, len(pictures), encoding, protocol, metric.compute())
        for name, metric in metrics.items()
    ]


def confusion_of(
    model: SegformerForSemanticSegmentation,
    pictures: Any,
    indices: Iterable[int],
    protocol: Protocol,
) -> NDArray[np.int64]:
    """Confusion matrix (19, 19) of some pictures, to be summed over processes."""
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    for index in indices:
        row = pictures[index]
        total += confusion_matrix(row["label"], predict(model, row["image"], protocol))
    return total
