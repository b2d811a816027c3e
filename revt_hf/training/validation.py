"""Validation: loss and confusion matrix of one encoder under one or several decode heads."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe
from revt_hf.data.domains import domain_label
from revt_hf.data.labels import IGNORE_INDEX, NUM_CLASSES
from revt_hf.data.normalisation import normalisation_of
from revt_hf.data.resize import resize_label_to_fit
from revt_hf.evaluation.class_maps import MeanProbabilities, class_map
from revt_hf.evaluation.confusion import confusion_matrix, scores_from
from revt_hf.evaluation.loading import image_batches
from revt_hf.evaluation.predictor import prepare, sliding_logits
from revt_hf.models.folded_head import folded
from revt_hf.training.loss import segmentation_loss


def validation_scores(
    accelerator: Accelerator,
    model: SegformerForSemanticSegmentation,
    held_out: Sequence[Any],
    recipe: Recipe,
) -> dict[str, float]:
    """Loss and scores on each source's val split, all processes together; leaves eval mode on.

    Args:
        accelerator: of the run.
        model: the network, unwrapped; its running statistics are set to the main process's, which
            are the ones that are saved.
        held_out: rows of each source's val split.
        recipe: of the run.

    Returns:
        ``val_loss``, ``val_mIoU`` and ``val_aAcc``, averaged over the sources; with several
        sources also the mIoU on each.
    """
    broadcast(list(model.buffers()))
    model.eval()
    scores, losses = [], []
    for images in held_out:
        indices = range(accelerator.process_index, len(images), accelerator.num_processes)
        with folded(model), _uncompiled(recipe.train.compile):
            (own,) = sums_of(
                model,
                [model.decode_head],
                images,
                indices,
                recipe.evaluation,
                recipe.train.workers,
            )
        shares = (torch.from_numpy(own.matrix), torch.tensor(own.loss), torch.tensor(own.pixels))
        matrix, loss, pixels = (
            accelerator.reduce(share.to(accelerator.device), reduction="sum") for share in shares
        )
        scores.append(scores_from(matrix.cpu().numpy()))
        losses.append(float(loss) / max(int(pixels), 1))
    values = {
        "val_loss": sum(losses) / len(losses),
        "val_mIoU": sum(score.miou for score in scores) / len(scores),
        "val_aAcc": sum(score.aacc for score in scores) / len(scores),
    }
    if len(scores) > 1:
        for source, score in zip(recipe.sources, scores, strict=True):
            values[f"val_mIoU of {domain_label(source, source.val)}"] = score.miou
    return values


def _uncompiled(compiled: bool) -> AbstractContextManager[Any]:
    """Validation images come in many sizes, which are not worth compiling for."""
    if not compiled:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


class Sums:
    """Loss and confusion matrix of one decode head, summed over images.

    Attributes:
        loss: the training loss, cross-entropy in nats, summed over labelled pixels.
        pixels: the number of labelled pixels.
        matrix: the confusion matrix, (19, 19), int64.
    """

    def __init__(self) -> None:
        self.loss = 0.0
        self.pixels = 0
        self.matrix = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)

    @property
    def mean_loss(self) -> float:
        """Loss per labelled pixel; 0 if there are none."""
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

    The encoder sees each image once. The loss is computed at the network's input size as in
    training: labels are resized like their images (nearest), logits to the labels. With several
    views it is the loss at the scale closest to 1.

    Args:
        model: in eval mode; its own head counts only if it is among ``heads``.
        heads: decode heads in eval mode, on the model's device.
        images: rows with ``image`` and ``label``, as from :func:`revt_hf.data.domains.load_domain`.
        indices: the rows to use.
        protocol: the test protocol.
        workers: processes that decode images while the network runs; 0 decodes in this process.
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
