"""Pixel-wise cross-entropy at label size, at once or in strips of rows, and validation with it."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.processes import failing_together
from revt_hf.data.domains import domain_label
from revt_hf.data.label_space import IGNORE_INDEX
from revt_hf.evaluation.evaluate import Loss, own_share, score_images
from revt_hf.evaluation.metric import scores_from, summed
from revt_hf.evaluation.predictor import heads_segmenter, own_head
from revt_hf.models.folded_head import folded, full_precision
from revt_hf.models.load import label_space

Averaging = Literal["valid", "paper_code"]


def averaged_pixels(labels: torch.Tensor, averaging: Averaging) -> torch.Tensor:
    """How many pixels (int64) labels (N, H, W) contribute to the mean of their loss."""
    if averaging == "paper_code":
        # Also ignored ones, as mmsegmentation 0.x ``losses/cross_entropy_loss.py``.
        return labels.new_full((), labels.numel())
    return (labels != IGNORE_INDEX).sum()


def segmentation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    averaging: Averaging,
    pixels: torch.Tensor | None = None,
    rows: int | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of logits (N, C, h, w) upsampled to labels (N, H, W); 0 without a pixel.

    Parts of a batch that get the whole's ``pixels`` sum to its loss.
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


VALID_LOSS: Loss = partial(segmentation_loss, averaging="valid")


def summed_in_strips(logits: torch.Tensor, labels: torch.Tensor, rows: int) -> torch.Tensor:
    """Cross-entropy of bilinearly upsampled logits, summed; never held at label size."""
    with full_precision(logits):
        total: torch.Tensor = _SummedInStrips.apply(logits, labels, rows)
    return total


class _SummedInStrips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, rows: int) -> torch.Tensor:
        # Bilinear upsampling is a matrix product on either side: one strip of rows at a time is
        # upsampled, scored and dropped, and the gradient computed on the way.
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
    """Softmax minus one-hot, from log-softmax (N, C, H, W), in place."""
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


def validation_scores(
    accelerator: Accelerator,
    model: PreTrainedModel,
    held_out: Sequence[Any],
    recipe: Recipe,
) -> dict[str, float]:
    """Mean loss and scores on the val splits, all processes together; ends in eval mode."""
    settings = recipe.train
    # The running statistics become the main process's, which are the ones it saves.
    broadcast(list(model.buffers()))
    model.eval()
    scores, losses = [], []
    for images in held_out:
        # Validation images come in many sizes, which are not worth compiling for.
        stance = torch.compiler.set_stance("force_eager") if settings.compile else nullcontext()
        with folded(model), stance:
            ((own,),) = score_images(
                [heads_segmenter(model, [own_head(model)])],
                images,
                recipe.evaluation,
                indices=own_share(images, accelerator),
                workers=settings.workers,
                loss=VALID_LOSS,
            )
        total = summed(own, accelerator)
        scores.append(scores_from(total.matrix, label_space(model)))
        losses.append(total.mean_loss)
    values = {
        "val_loss": sum(losses) / len(losses),
        "val_mIoU": sum(score.miou for score in scores) / len(scores),
        "val_aAcc": sum(score.aacc for score in scores) / len(scores),
    }
    if len(scores) > 1:
        for source, score in zip(recipe.sources, scores, strict=True):
            values[f"val_mIoU of {domain_label(source, source.val)}"] = score.miou
    return values


class Meter:
    """Mean loss and images per second since the last reading, over all processes."""

    def __init__(self, images_per_step: int, accelerator: Accelerator) -> None:
        self._images = images_per_step
        self._accelerator = accelerator
        self._losses: list[torch.Tensor] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        self._since = time.perf_counter()
        self._steps = 0

    def add(self, loss: torch.Tensor) -> None:
        """Add this process's share of one step's loss."""
        self._losses.append(loss)
        self._steps += 1

    def read(self, step: int) -> dict[str, float]:
        """The values since the last reading; every process must call it."""
        total = self._accelerator.reduce(torch.stack(self._losses).mean(), reduction="sum")
        loss = float(total)
        with failing_together(self._accelerator):
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {step + 1}: lower optimizer.lr or check the labels"
                )
        rate = self._images * self._steps / max(time.perf_counter() - self._since, 1e-9)
        self._losses = []
        self.restart_clock()
        return {"loss": loss, "images_per_second": rate}
