"""SegFormer's decode head, computed at each stage's own resolution with unchanged parameters.

Projection and fusion are linear, and a 1x1 convolution commutes with bilinear upsampling, whose
weights sum to 1. For each stage they are one small matrix, applied before upsampling:

    fuse(cat(up(proj_4(x_4)), ..., up(proj_1(x_1)))) = sum_i up(fuse_i proj_i x_i) + fuse(biases)

BatchNorm with running statistics is folded in, too. The matrices are recomputed in every forward
pass (a percent of its time), so weights may change and gradients reach every parameter.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, SegformerForSemanticSegmentation
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from revt_hf.core.errors import UserError


def bf16_autocast(device: torch.device, enabled: bool = True) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 where the device supports it (``meta`` does not)."""
    if not (enabled and torch.amp.is_autocast_available(device.type)):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def full_precision(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off on the tensor's device."""
    kind = tensor.device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if available else nullcontext()


class FoldedDecodeHead(SegformerDecodeHead):
    """A decode head whose projections, fusion and folded BatchNorm do not run as modules."""

    def forward(  # type: ignore[override]  # transformers passes a sequence of stages
        self, encoder_hidden_states: Sequence[torch.Tensor], **kwargs: Any
    ) -> torch.Tensor:
        """Logits (N, classes, h, w) at the first stage's size, from stages (N, channels, h, w)."""
        # The fastest layout, and that of the ordinary head: dropout draws by position in memory, so
        # both heads drop the same values.
        stages = [
            self._as_map(stage).contiguous(memory_format=torch.channels_last)
            for stage in encoder_hidden_states
        ]
        matrices, bias = self._matrices()
        summed = functional.conv2d(stages[0], matrices[0], bias)
        for stage, matrix in zip(stages[1:], matrices[1:], strict=True):
            summed += functional.interpolate(
                functional.conv2d(stage, matrix),
                size=summed.shape[2:],
                mode="bilinear",
                align_corners=False,
            )
        if self.batch_norm.training:
            summed = self.batch_norm(summed)
        return self.classifier(self.dropout(functional.relu_(summed))).contiguous()

    def _as_map(self, stage: torch.Tensor) -> torch.Tensor:
        """Undo ``reshape_last_stage: false``, as the ordinary head does."""
        if stage.ndim == 4:
            return stage
        side = math.isqrt(stage.shape[-1])
        return stage.reshape(stage.shape[0], side, side, -1).permute(0, 3, 1, 2)

    def _matrices(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """A 1x1 kernel (width, channels, 1, 1) for each stage, and the bias (width) of their sum.

        Under autocast they are rounded once, not after each layer.
        """
        with full_precision(self.linear_fuse.weight):
            # The stages are concatenated last first.
            fuses = self.linear_fuse.weight.flatten(1).chunk(len(self.linear_projections), dim=1)
            layers: list[tuple[torch.Tensor, Any]] = [
                (fuse, layer.proj)
                for fuse, layer in zip(fuses[::-1], self.linear_projections, strict=True)
            ]
            matrices = [fuse @ projection.weight for fuse, projection in layers]
            bias = torch.stack([fuse @ projection.bias for fuse, projection in layers]).sum(0)
            norm: Any = self.batch_norm
            if not norm.training:
                scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
                matrices = [scale[:, None] * matrix for matrix in matrices]
                bias = (bias - norm.running_mean) * scale + norm.bias
        return [matrix[:, :, None, None] for matrix in matrices], bias


class FixedDecodeHead(FoldedDecodeHead):
    """A folded head whose matrices were computed once, for exports: its weights cannot change."""

    def _matrices(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        count = len(self.linear_projections)
        return [self.get_buffer(f"matrix_{at}") for at in range(count)], self.get_buffer("bias")


@torch.no_grad()
def fix_(model: PreTrainedModel) -> PreTrainedModel:
    """Fold a SegFormer's decode head in place for good, in eval mode; only to run it."""
    head: Any = fold_(model).get_submodule("decode_head")
    matrices, bias = head._matrices()
    for at, matrix in enumerate(matrices):
        head.register_buffer(f"matrix_{at}", matrix)
    head.register_buffer("bias", bias)
    head.__class__ = FixedDecodeHead
    return model


def fold_(model: PreTrainedModel) -> PreTrainedModel:
    """Fold SegFormer's own decode head in place; parameter names and saved files stay the same."""
    kind = type(getattr(model, "decode_head", model))
    if kind not in (SegformerDecodeHead, FoldedDecodeHead):
        raise UserError(f"only SegFormer's own decode head can be folded, not {kind.__name__}")
    # The module object stays, and with it its parameters, hooks, mode and position in the model.
    model.get_submodule("decode_head").__class__ = FoldedDecodeHead
    return model


def unfold_(model: PreTrainedModel) -> PreTrainedModel:
    """Undo :func:`fold_` in place; returns the same model."""
    if is_folded(model):
        model.get_submodule("decode_head").__class__ = SegformerDecodeHead
    return model


def is_folded(model: PreTrainedModel) -> bool:
    """Whether a model's decode head is folded."""
    return isinstance(getattr(model, "decode_head", None), FoldedDecodeHead)


@contextmanager
def folded(model: PreTrainedModel) -> Iterator[None]:
    """Fold a SegFormer's decode head inside the block only; other models stay as they are."""
    if not isinstance(model, SegformerForSemanticSegmentation):
        yield
        return
    before = is_folded(model)
    fold_(model)
    try:
        yield
    finally:
        if not before:
            unfold_(model)
