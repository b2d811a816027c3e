"""Pixel-wise cross-entropy at label size."""

from typing import Literal

import torch
from torch.nn import functional

from revt_hf.labels import IGNORE_INDEX


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, averaging: Literal["valid", "published"]
) -> torch.Tensor:
    """Cross-entropy after bilinear upsampling of the logits to the labels' size.

    Args:
        logits: (N, 19, h, w), float.
        labels: (N, H, W), int64, 0..18 and 255 (ignored).
        averaging: over the ``valid`` pixels; or over all pixels, ignored ones included, as the
            original does (mmsegmentation 0.x ``losses/cross_entropy_loss.py``): ``published``.

    Returns:
        A scalar, float32; 0 for a batch without a valid pixel.
    """
    upsampled = functional.interpolate(
        logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False
    )
    total = functional.cross_entropy(upsampled, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    if averaging == "published":
        return total / labels.numel()
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)
