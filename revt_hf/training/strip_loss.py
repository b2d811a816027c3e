"""Cross-entropy at label size without the logits at label size.

Bilinear upsampling is a matrix product on either side, one for the rows and one for the columns.
So logits are upsampled, scored and forgotten one strip of rows at a time, and because the
gradient of cross-entropy is known (softmax minus one-hot), it is taken on the way.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from revt_hf.data.labels import IGNORE_INDEX
from revt_hf.models.precision import full_precision


def summed_in_strips(logits: torch.Tensor, labels: torch.Tensor, rows: int) -> torch.Tensor:
    """The sum over all labelled pixels of the cross-entropy of bilinearly upsampled logits.

    The same as ``interpolate`` and ``cross_entropy(reduction="sum")``, gradient included, up to
    rounding; it can be differentiated once.

    Args:
        logits: (N, C, h, w), float32 or float64.
        labels: (N, H, W), int64, 0..C-1 and 255 (ignored).
        rows: of a strip, at least 1. Beside one strip, (N, C, h, W) is held.

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
            # The rows of the logits that have weight in this strip are among these.
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
    """Of the summed cross-entropy by the logits, from their log-softmax (N, C, H, W), in place."""
    counts = (labels != IGNORE_INDEX)[:, None]
    gradient = scores.exp_()
    gradient.scatter_add_(
        1, labels[:, None].where(counts, 0), gradient.new_full((), -1).expand_as(counts)
    )
    return gradient.mul_(counts)


def _bilinear_weights(small: int, large: int, like: torch.Tensor) -> torch.Tensor:
    """What ``interpolate`` makes of one axis, as a matrix (large, small)."""
    identity = torch.eye(small, dtype=like.dtype, device=like.device)
    return functional.interpolate(
        identity[None, None], size=(large, small), mode="bilinear", align_corners=False
    )[0, 0]
