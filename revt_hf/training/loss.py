"""Pixel-wise cross-entropy at label size, at once or in strips of rows."""

from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from revt_hf.data.labels import IGNORE_INDEX
from revt_hf.models.precision import full_precision

Averaging = Literal["valid", "paper_code"]


def averaged_pixels(labels: torch.Tensor, averaging: Averaging) -> torch.Tensor:
    """The number of pixels that a batch contributes to the mean of its loss.

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
        averaging: over the ``valid`` pixels; or, as in the paper's code (mmsegmentation 0.x
            ``losses/cross_entropy_loss.py``), over all pixels including ignored ones:
            ``paper_code``.
        pixels: for a part of a larger batch, the number of pixels that the whole batch averages
            over (the sum of :func:`averaged_pixels` over its parts). The losses of the parts then
            sum to the loss of the whole.
        rows: upsample this many rows of the labels at a time (:func:`summed_in_strips`), which
            takes less memory and time; None: all at once.

    Returns:
        A scalar, float32 (float64 for float64 logits); 0 for a batch without a valid pixel.
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


def summed_in_strips(logits: torch.Tensor, labels: torch.Tensor, rows: int) -> torch.Tensor:
    """Cross-entropy of bilinearly upsampled logits, summed over all labelled pixels.

    Equals ``interpolate`` and ``cross_entropy(reduction="sum")``, gradient included, up to
    rounding, without ever holding the logits at label size: bilinear upsampling is a matrix
    product on either side, so one strip of rows at a time is upsampled, scored and dropped, and
    the gradient (softmax minus one-hot) is computed on the way. Differentiable once.

    Args:
        logits: (N, C, h, w), float32 or float64.
        labels: (N, H, W), int64, 0..C-1 and 255 (ignored).
        rows: per strip, at least 1. Besides one strip, (N, C, h, W) is held.

    Returns:
        A scalar of the logits' type.
    """
    with full_precision(logits):
        total: torch.Tensor = _SummedInStrips.apply(logits, labels, rows)
    return total


class _SummedInStrips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, rows: int) -> torch.Tensor:
        height, full_height = logits.shape[2], labels.shape[1]
        down = _bilinear_weights(height, full_height, logits)
        across = _bilinear_weights(logits.shape[3], labels.shape[2], logits)
        wide = logits @ across.T
        wide_gradient = torch.zeros_like(wide)
        total = logits.new_zeros(())
        for top in range(0, full_height, rows):
            bottom = min(top + rows, full_height)
            # The rows of the logits with weight in this strip are among these.
            used = slice(
                max(0, top * height // full_height - 1), bottom * height // full_height + 2
            )
            weights = down[top:bottom, used]
            strip = labels[:, top:bottom]
            scores = functional.log_softmax(weights @ wide[:, :, used], dim=1)
            total += functional.nll_loss(scores, strip, ignore_index=IGNORE_INDEX, reduction="sum")
            if ctx.needs_input_grad[0]:
                wide_gradient[:, :, used] += weights.T @ _gradient(scores, strip)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(wide_gradient @ across)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (logits_gradient,) = ctx.saved_tensors
        return logits_gradient * gradient, None, None


def _gradient(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Gradient of the summed loss by the logits, from their log-softmax (N, C, H, W), in place."""
    counts = (labels != IGNORE_INDEX)[:, None]
    gradient = scores.exp_()
    gradient.scatter_add_(
        1, labels[:, None].where(counts, 0), gradient.new_full((), -1).expand_as(counts)
    )
    return gradient.mul_(counts)


def _bilinear_weights(small: int, large: int, like: torch.Tensor) -> torch.Tensor:
    """``interpolate`` along one axis as a matrix (large, small)."""
    identity = torch.eye(small, dtype=like.dtype, device=like.device)
    return functional.interpolate(
        identity[None, None], size=(large, small), mode="bilinear", align_corners=False
    )[0, 0]
