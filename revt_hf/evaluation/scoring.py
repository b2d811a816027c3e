"""Evaluate models on domains: one image decoded once for all models."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from numpy.typing import NDArray
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.core.processes import failing_together, process_state
from revt_hf.data.domains import label_encoding
from revt_hf.data.labels import NUM_CLASSES
from revt_hf.evaluation.confusion import confusion_matrix, scores_from
from revt_hf.evaluation.cost import Cost
from revt_hf.evaluation.loading import image_batches
from revt_hf.evaluation.predictor import Segmenter, model_segmenter, predict
from revt_hf.evaluation.sizes import check_sizes, minimum_side
from revt_hf.evaluation.splits import SplitSpec

Scorable: TypeAlias = SegformerForSemanticSegmentation | Segmenter


@dataclass(frozen=True)
class Evaluated:
    """A model (or ensemble), what it was scored on, and what came out.

    ``network_sha256`` says which network it was (:func:`revt_hf.models.load.network_sha256`), of an
    ensemble which ones: the model's name may stand for another one tomorrow.
    """

    model: str
    network_sha256: tuple[str, ...]
    split: SplitSpec
    images: int
    label_encoding: str | None
    protocol: Protocol
    scores: dict[str, Any]
    ensemble: dict[str, Any] | None = None
    cost: Cost | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``revt evaluate --json`` writes.

        ``ensemble`` and ``cost`` stand in it only where there is one.
        """
        row = {
            "model": self.model,
            "network_sha256": list(self.network_sha256),
            "domain": self.split.spec.domain,
            "config": self.split.spec.config,
            "split": self.split.split,
            "data_dir": self.split.spec.data_dir,
            "label": self.split.label,
            "is_source": self.split.is_source,
            **self.scores,
            "images": self.images,
            "label_encoding": self.label_encoding,
            "protocol": {**self.protocol.model_dump(mode="json"), "resize": "keep ratio"},
        }
        if self.ensemble is not None:
            row["ensemble"] = self.ensemble
        if self.cost is not None:
            row["cost"] = asdict(self.cost)
        return row


def evaluate_models(
    models: Mapping[str, Scorable],
    images: Any,
    split: SplitSpec,
    protocol: Protocol,
    on_image: Callable[[], object] = lambda: None,
    batch_size: int = 1,
    workers: int = 0,
) -> list[Evaluated]:
    """Score every model on one split; each image is decoded once for all of them.

    Of several processes (``accelerate launch``, ``torchrun``) each takes every n-th image, and
    the confusion matrices are summed: every process returns the scores of all images.

    Args:
        models: SegFormers or segmenters by the name that results carry; in eval mode.
        images: rows with ``image`` and ``label`` as :func:`revt_hf.data.domains.load_domain` gives.
        split: where the images come from; results carry it.
        protocol: see :class:`Protocol`.
        on_image: called after each image of this process, for a progress bar.
        batch_size: images that go through a network together, where their inputs' sizes agree.
        workers: processes that decode images while the networks run; 0 decodes in between.

    Raises:
        UserError: an image or label cannot be read; of several processes the main one says so.
    """
    segmenters = {name: as_segmenter(model) for name, model in models.items()}
    sums = {name: np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64) for name in segmenters}
    processes = process_state()
    own = range(processes.process_index, len(images), processes.num_processes)
    minimum = minimum_side(model for one in segmenters.values() for model in one.models)
    with failing_together(processes):
        check_sizes(images, split.label, protocol, minimum)
        for rows in image_batches(images, own, protocol, batch_size, workers):
            batch = [row["image"] for row in rows]
            for name, segmenter in segmenters.items():
                maps = segmenter.class_maps(batch, protocol)
                for row, classes in zip(rows, maps, strict=True):
                    sums[name] += confusion_matrix(row["label"], classes)
            for _ in rows:
                on_image()
    encoding = label_encoding(images)
    results = []
    for name, segmenter in segmenters.items():
        scores = scores_from(_summed(sums[name], processes)).to_json()
        ensemble = segmenter.description()
        results.append(
            Evaluated(
                *(name, segmenter.network_sha256, split, len(images)),
                *(encoding, protocol, scores, ensemble),
            )
        )
    return results


def _summed(matrix: NDArray[np.int64], processes: PartialState) -> NDArray[np.int64]:
    """A confusion matrix (19, 19) summed over all processes, which is exact in integers."""
    if processes.num_processes == 1:
        return matrix
    total: torch.Tensor = reduce(torch.from_numpy(matrix).to(processes.device), reduction="sum")
    return total.cpu().numpy()


def as_segmenter(model: Scorable) -> Segmenter:
    """A SegFormer as a segmenter; a segmenter as it is."""
    return model if isinstance(model, Segmenter) else model_segmenter(model)


def confusion_of(
    model: SegformerForSemanticSegmentation,
    images: Any,
    indices: Iterable[int],
    protocol: Protocol,
) -> NDArray[np.int64]:
    """Confusion matrix (19, 19) of some images, to be summed over processes."""
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    for index in indices:
        row = images[index]
        total += confusion_matrix(row["label"], predict(model, row["image"], protocol))
    return total
