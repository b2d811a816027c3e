"""Loss and mIoU of one encoder under several decode heads, on the images of some splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.data.domains import load_spec, open_domain
from revt_hf.evaluation.confusion import scores_from
from revt_hf.evaluation.loading import check_labelled
from revt_hf.evaluation.splits import SplitSpec
from revt_hf.training.validation import sums_of

OnImage = Callable[[], object]


@dataclass(frozen=True)
class Score:
    """Of several splits, the mean over them.

    Attributes:
        loss: the training loss: cross-entropy in nats, mean over all labelled pixels of a split.
        miou: in percent, of each split's confusion matrix.
    """

    loss: float
    miou: float

    def to_json(self) -> dict[str, float]:
        """``loss`` and ``mIoU``."""
        return {"loss": self.loss, "mIoU": self.miou}


@dataclass(frozen=True)
class Data:
    """Images to score on.

    Attributes:
        splits: where they come from.
        rows: the images of each split.
        protocol: how they reach the network.
        workers: processes that decode images; 0 decodes in between.
    """

    splits: tuple[SplitSpec, ...]
    rows: tuple[Any, ...]
    protocol: Protocol
    workers: int = 0

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(map(len, self.rows))

    @property
    def label(self) -> str:
        """The splits' names."""
        return " + ".join(split.label for split in self.splits)

    def to_json(self) -> dict[str, Any]:
        """What a result says of its data; other images are other values."""
        return {
            "splits": [
                {
                    "label": split.label,
                    **split.spec.model_dump(mode="json", include=_SPEC),
                    "split": split.split,
                    "is_source": split.is_source,
                    "content": _content(split),
                    "images": len(rows),
                }
                for split, rows in zip(self.splits, self.rows, strict=True)
            ],
            "protocol": self.protocol.model_dump(mode="json"),
        }


_SPEC = {"domain", "data_dir", "config", "options"}


def load_data(
    splits: Sequence[SplitSpec], protocol: Protocol, images: int | None = None, workers: int = 0
) -> Data:
    """Open splits for scoring.

    Args:
        splits: what to score on.
        protocol: how images reach the network.
        images: of each split at most so many, spread over it; None for all.
        workers: see :class:`Data`.

    Raises:
        UserError: a domain's data cannot be used.
    """
    loaded = []
    for split in splits:
        rows = load_spec(split.spec, split.split)
        if images is not None and images < len(rows):
            # Neighbours are often frames of one drive.
            rows = rows.select(np.linspace(0, len(rows) - 1, images).round().astype(int))
        check_labelled(rows, split.label)
        loaded.append(rows)
    return Data(tuple(splits), tuple(loaded), protocol, workers)


def _content(split: SplitSpec) -> str:
    spec = split.spec
    folder = Path(spec.data_dir) if spec.data_dir else None
    return open_domain(spec.domain, split.split, folder, spec.config, spec.options).content


def score_heads(
    model: SegformerForSemanticSegmentation,
    heads: Mapping[str, nn.Module],
    data: Data,
    on_image: OnImage = lambda: None,
) -> dict[str, Score]:
    """Score a model's encoder with each of several decode heads; it sees each image once.

    See :func:`revt_hf.training.validation.sums_of`.

    Args:
        model: in eval mode; its own head counts only if it is among ``heads``.
        heads: decode heads in eval mode, on the model's device, by the name of their score.
        data: the images.
        on_image: called after each image, for a progress bar.

    Raises:
        UserError: an image cannot be read.
    """
    modules = list(heads.values())
    sums = [
        sums_of(model, modules, rows, range(len(rows)), data.protocol, data.workers, on_image)
        for rows in data.rows
    ]
    scores = {}
    for place, name in enumerate(heads):
        losses = [split[place].mean_loss for split in sums]
        mious = [scores_from(split[place].matrix).miou for split in sums]
        scores[name] = Score(float(np.mean(losses)), float(np.mean(mious)))
    return scores
