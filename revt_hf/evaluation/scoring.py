"""The scoring loop: every image is decoded once for all models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from revt_hf.config.protocol import Protocol
from revt_hf.data.labels import IGNORE_INDEX, NUM_CLASSES
from revt_hf.data.resize import resize_label_to_fit
from revt_hf.evaluation.confusion import confusion_matrix
from revt_hf.evaluation.loading import Row, image_batches
from revt_hf.evaluation.predictor import OnLogits, Segmenter

# Logits (1, C, h, w) and labels (1, h, w) to the mean loss over labelled pixels.
Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Sums:
    """Loss and confusion matrix of one output, summed over images.

    Attributes:
        loss: in nats, summed over labelled pixels.
        pixels: number of these pixels.
        matrix: the confusion matrix, (19, 19), int64.
    """

    loss: float = 0.0
    pixels: int = 0
    matrix: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    )

    @property
    def mean_loss(self) -> float:
        """Over the labelled pixels; 0 without any."""
        return self.loss / max(self.pixels, 1)


def score_images(
    segmenters: Sequence[Segmenter],
    images: Any,
    protocol: Protocol,
    indices: Sequence[int] | None = None,
    batch_size: int = 1,
    workers: int = 0,
    on_image: Callable[[], object] = lambda: None,
    loss: Loss | None = None,
) -> list[list[Sums]]:
    """Sum confusion matrices, and losses, of segmenters over images; each is decoded once.

    The loss is taken at the network's input size as in training: labels are resized like their
    images (nearest), logits to them. Of several views it is that of the scale nearest to 1.

    Args:
        segmenters: in eval mode.
        images: rows with ``image`` (H, W, 3) and ``label`` (H, W), uint8.
        protocol: how they reach the networks.
        indices: of the images to score; None for all.
        batch_size: images that go through a network together, where their input sizes agree.
        workers: processes that decode images while the networks run; 0 decodes in between.
        on_image: called after each image.
        loss: also sum this loss.

    Returns:
        For each segmenter the sums of each of its outputs.

    Raises:
        UserError: an image or label cannot be read.
    """
    sums = [[Sums() for _ in range(one.outputs)] for one in segmenters]
    chosen = range(len(images)) if indices is None else indices
    for rows in image_batches(images, chosen, protocol, batch_size, workers):
        batch = [row["image"] for row in rows]
        for segmenter, totals in zip(segmenters, sums, strict=True):
            on_logits = None if loss is None else _loss_adder(loss, rows, protocol, totals)
            maps = segmenter.output_maps(batch, protocol, on_logits)
            for total, classes in zip(totals, maps, strict=True):
                for row, predicted in zip(rows, classes, strict=True):
                    total.matrix += confusion_matrix(row["label"], predicted)
        for _ in rows:
            on_image()
    return sums


def _loss_adder(
    loss: Loss, rows: Sequence[Row], protocol: Protocol, totals: Sequence[Sums]
) -> OnLogits:
    for_loss = min(protocol.scales, key=lambda scale: abs(scale - 1))

    def add(logits: torch.Tensor, size: tuple[int, int], scale: float, flipped: bool) -> None:
        if scale != for_loss or flipped:
            return
        for row, one in zip(rows, logits, strict=True):
            resized = resize_label_to_fit(row["label"], size, (size[1], size[0]))
            pixels = int((resized != IGNORE_INDEX).sum())
            if not pixels:
                continue
            labels = torch.from_numpy(resized.astype(np.int64))[None].to(one.device)
            for part, total in zip(one.chunk(len(totals)), totals, strict=True):
                # Summed over pixels, so that images count by their labelled pixels.
                total.loss += float(loss(part[None], labels)) * pixels
                total.pixels += pixels

    return add
