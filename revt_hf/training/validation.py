"""Loss and confusion matrix of one encoder under several decode heads, summed over images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.data.labels import IGNORE_INDEX, NUM_CLASSES
from revt_hf.data.normalisation import normalisation_of
from revt_hf.data.resize import resize_label_to_fit
from revt_hf.evaluation.class_maps import MeanProbabilities, class_map
from revt_hf.evaluation.confusion import confusion_matrix
from revt_hf.evaluation.loading import image_batches
from revt_hf.evaluation.predictor import prepare, sliding_logits
from revt_hf.training.loss import segmentation_loss


class Sums:
    """What one head has brought together over some images.

    Attributes:
        loss: the training loss, cross-entropy in nats, summed over labelled pixels.
        pixels: how many pixels that are.
        matrix: the confusion matrix, (19, 19), int64.
    """

    def __init__(self) -> None:
        self.loss = 0.0
        self.pixels = 0
        self.matrix = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)

    @property
    def mean_loss(self) -> float:
        """Over the labelled pixels; 0 without any."""
        return self.loss / max(self.pixels, 1)


@torch.inference_mode()
def sums_of(
    model: SegformerForSemanticSegmentation,
    heads: Sequence[nn.Module],
    images: Any,
    indices: Sequence[int],
    protocol: Protocol,
    workers: int = 0,
    on_image: Callable[[], object] = lambda: None,
) -> list[Sums]:
    """Loss and confusion matrix of a model's encoder with each of several decode heads.

    The encoder sees each image once. The loss is taken at the network's input size as in
    training: labels are resized like their images (nearest), logits to them. Of several views
    it is that of the scale nearest to 1.

    Args:
        model: in eval mode; its own head counts only if it is among ``heads``.
        heads: decode heads in eval mode, on the model's device.
        images: rows with ``image`` and ``label`` as :func:`revt_hf.data.domains.load_domain` gives.
        indices: which of them.
        protocol: how they reach the network.
        workers: processes that decode images while the network runs; 0 decodes in between.
        on_image: called after each image, for a progress bar.

    Raises:
        UserError: an image cannot be read.
    """
    network = _Network(model, heads)
    sums = [Sums() for _ in heads]
    for (row,) in image_batches(images, indices, protocol, 1, workers):
        _add_image(network, row, protocol, sums)
        on_image()
    return sums


class _Network:
    """Logits of several heads on one encoder, side by side in the channels."""

    def __init__(self, model: SegformerForSemanticSegmentation, heads: Sequence[nn.Module]) -> None:
        self._encoder = model.segformer
        self._heads = heads
        self.count = len(heads)
        self.device = model.device
        self.normalisation = normalisation_of(model)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self._encoder(pixels, output_hidden_states=True).hidden_states
        return torch.cat([head(features) for head in self._heads], dim=1)


def _add_image(
    network: _Network, row: Mapping[str, Any], protocol: Protocol, sums: Sequence[Sums]
) -> None:
    label = row["label"]
    size = (row["image"].shape[0], row["image"].shape[1])
    means = [MeanProbabilities(size) for _ in sums]
    for_loss = min(protocol.scales, key=lambda scale: abs(scale - 1))
    for scale in protocol.scales:
        pixels = prepare(row["image"], protocol, scale, network.normalisation)
        pixels = pixels.to(network.device)
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
    parts: Sequence[torch.Tensor], label: Any, size: tuple[int, int], sums: Sequence[Sums]
) -> None:
    resized = resize_label_to_fit(label, size, (size[1], size[0]))
    pixels = int((resized != IGNORE_INDEX).sum())
    if not pixels:
        return
    labels = torch.from_numpy(resized.astype(np.int64))[None].to(parts[0].device)
    for logits, total in zip(parts, sums, strict=True):
        loss = segmentation_loss(logits[None], labels, "valid")
        # Summed over pixels, so that images count by their labelled pixels.
        total.loss += float(loss) * pixels
        total.pixels += pixels
