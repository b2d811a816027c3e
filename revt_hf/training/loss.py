"""Pixel-wise cross-entropy at label size."""

from typing import Literal

import torch
from torch.nn import functional

from revt_hf.data.labels import IGNORE_INDEX
from revt_hf.training.strip_loss import summed_in_strips

Averaging = Literal["valid", "paper_code"]


def averaged_pixels(labels: torch.Tensor, averaging: Averaging) -> torch.Tensor:
    """How many pixels a batch brings into the mean of its loss.

    Args:
        labels: (N, H, W), int64, 0..18 and 255 (ignored).
        averaging: see :func:`segmentation_loss`.

    Returns:
        A scalar, int64.
    """
    if averaging == "paper_code":
        return labels.new_full((), labels.numel())
    return (labels != IGNORE_INDEX).sum()


def segmentation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    averaging: Averaging,
    pixels: torch.Tensor | None = None,
    rows: int | None = None,
) -> torch.Tensor:
    """Cross-entropy after bilinear upsampling of the logits to the labels' size.

    Args:
        logits: (N, 19, h, w), float.
        labels: (N, H, W), int64, 0..18 and 255 (ignored).
        averaging: over the ``valid`` pixels; or over all pixels, ignored ones included, as the
            original does (mmsegmentation 0.x ``losses/cross_entropy_loss.py``): ``paper_code``.
        pixels: of a batch that is part of a larger one: how many pixels the whole averages over
            (the sum of its parts' :func:`averaged_pixels`). The parts' losses then sum to the
            loss of the whole.
        rows: upsample so many rows of the labels at a time (see
            :func:`revt_hf.training.strip_loss.summed_in_strips`), which takes less memory and
            time; None: all at once.

    Returns:
        A scalar, float32 (float64 of float64 logits); 0 for a batch without a valid pixel.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if rows is None:
        upsampled = functional.interpolate(
            logits, size=labels.shape[-2:], mode="bilinear", align_corners=False
        )
        total = functional.cross_entropy(
            upsampled, labels, ignore_index=IGNORE_INDEX, reduction="sum"
        )
    else:
        total = summed_in_strips(logits, labels, rows)
    if pixels is None:
        pixels = averaged_pixels(labels, averaging)
    return total / pixels.clamp(min=1)
