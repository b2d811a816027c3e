"""Loss and mIoU of one encoder under several decode heads, on the pictures of some splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import SegformerForSemanticSegmentation

from revt_hf.domains import load_spec, open_domain
from revt_hf.evaluation.class_maps import MeanProbabilities, class_map
from revt_hf.evaluation.confusion import confusion_matrix, scores_from
from revt_hf.evaluation.inference import Protocol, prepare, sliding_logits
from revt_hf.evaluation.loading import picture_batches
from revt_hf.evaluation.splits import SplitSpec
from revt_hf.labels import IGNORE_INDEX, NUM_CLASSES
from revt_hf.resize import bounded_label
from revt_hf.training.loss import segmentation_loss

OnPicture = Callable[[], object]


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
    """Pictures to score on.

    Attributes:
        splits: where they come from.
        rows: the pictures of each split.
        protocol: how they reach the network.
        workers: processes that decode pictures; 0 decodes in between.
    """

    splits: tuple[SplitSpec, ...]
    rows: tuple[Any, ...]
    protocol: Protocol
    workers: int = 0

    @property
    def pictures(self) -> int:
        """How many there are."""
        return sum(map(len, self.rows))

    @property
    def label(self) -> str:
        """The splits' names."""
        return " + ".join(split.label for split in self.splits)

    def to_json(self) -> dict[str, Any]:
        """What a result says of its data; other pictures are other values."""
        return {
            "splits": [
                {
                    "label": split.label,
                    **split.spec.model_dump(mode="json", include=_SPEC),
                    "split": split.split,
                    "is_source": split.is_source,
                    "content": _content(split),
                    "pictures": len(rows),
                }
                for split, rows in zip(self.splits, self.rows, strict=True)
            ],
            "protocol": asdict(self.protocol),
        }


_SPEC = {"domain", "data_dir", "config", "options"}


def load_data(
    splits: Sequence[SplitSpec], protocol: Protocol, pictures: int | None = None, workers: int = 0
) -> Data:
    """Open splits for scoring.

    Args:
        splits: what to score on.
        protocol: how pictures reach the network.
        pictures: of each split at most so many, spread over it; None for all.
        workers: see :class:`Data`.

    Raises:
        UserError: a domain's data cannot be used.
    """
    loaded = []
    for split in splits:
        rows = load_spec(split.spec, split.split)
        if pictures is not None and pictures < len(rows):
            # Neighbours are often frames of one drive.
            rows = rows.select(np.linspace(0, len(rows) - 1, pictures).round().astype(int))
        loaded.append(rows)
    return Data(tuple(splits), tuple(loaded), protocol, workers)


def _content(split: SplitSpec) -> str:
    spec = split.spec
    folder = Path(spec.data_dir) if spec.data_dir else None
    return open_domain(spec.domain, split.split, folder, spec.config, spec.options).content


@torch.inference_mode()
def score_heads(
    model: SegformerForSemanticSegmentation,
    heads: Mapping[str, nn.Module],
    data: Data,
    on_picture: OnPicture = lambda: None,
) -> dict[str, Score]:
    """Score a model's encoder with each of several decode heads; it sees each picture once.

    The loss is taken at the network's input size as in training: labels are resized like their
    pictures (nearest), logits to them. Of several views it is that of the scale nearest to 1.

    Args:
        model: in eval mode; its own head counts only if it is among ``heads``.
        heads: decode heads in eval mode, on the model's device, by the name of their score.
        data: the pictures.
        on_picture: called after each picture, for a progress bar.

    Raises:
        UserError: a picture cannot be read.
    """
    network = _Network(model, list(heads.values()))
    sums = [_score_split(network, rows, data, on_picture) for rows in data.rows]
    scores = {}
    for place, name in enumerate(heads):
        losses = [split[place].loss / max(split[place].pixels, 1) for split in sums]
        mious = [scores_from(split[place].matrix).miou for split in sums]
        scores[name] = Score(float(np.mean(losses)), float(np.mean(mious)))
    return scores


class _Network:
    """Logits of several heads on one encoder, side by side in the channels."""

    def __init__(self, model: SegformerForSemanticSegmentation, heads: Sequence[nn.Module]) -> None:
        self._encoder = model.segformer
        self._heads = heads
        self.count = len(heads)
        self.device = model.device

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self._encoder(pixels, output_hidden_states=True).hidden_states
        return torch.cat([head(features) for head in self._heads], dim=1)


class _Sums:
    """What one head has brought together over a split."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.pixels = 0
        self.matrix = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)


def _score_split(network: _Network, rows: Any, data: Data, on_picture: OnPicture) -> list[_Sums]:
    sums = [_Sums() for _ in range(network.count)]
    indices = range(len(rows))
    for (row,) in picture_batches(rows, indices, data.protocol, 1, data.workers):
        _score_picture(network, row, data.protocol, sums)
        on_picture()
    return sums


def _score_picture(
    network: _Network, row: Mapping[str, Any], protocol: Protocol, sums: Sequence[_Sums]
) -> None:
    label = row["label"]
    size = (row["image"].shape[0], row["image"].shape[1])
    means = [MeanProbabilities(size) for _ in sums]
    for_loss = min(protocol.scales, key=lambda scale: abs(scale - 1))
    for scale in protocol.scales:
        pixels = prepare(row["image"], protocol, scale).to(network.device)
        for flipped in (False, True)[: 1 + protocol.flip]:
            logits = sliding_logits(network, pixels.flip(-1) if flipped else pixels, protocol)
            network_size = (pixels.shape[2], pixels.shape[3])
            parts = [part[0] for part in logits.chunk(network.count, dim=1)]
            if scale == for_loss and not flipped:
                _add_loss(parts, label, network_size, sums)
            if protocol.views == 1:
                for one, total in zip(parts, sums, strict=True):
                    total.matrix += confusion_matrix(label, class_map(one, network_size, size))
                return
            for one, mean in zip(parts, means, strict=True):
                mean.add(one.flip(-1) if flipped else one, network_size)
    for mean, total in zip(means, sums, strict=True):
        total.matrix += confusion_matrix(label, mean.class_map())


def _add_loss(
    parts: Sequence[torch.Tensor], label: Any, size: tuple[int, int], sums: Sequence[_Sums]
) -> None:
    resized = bounded_label(label, size, (size[1], size[0]))
    pixels = int((resized != IGNORE_INDEX).sum())
    if not pixels:
        return
    labels = torch.from_numpy(resized.astype(np.int64))[None].to(parts[0].device)
    for logits, total in zip(parts, sums, strict=True):
        loss = segmentation_loss(logits[None], labels, "valid")
        # Summed over pixels, so that pictures count by their labelled pixels.
        total.loss += float(loss) * pixels
        total.pixels += pixels
