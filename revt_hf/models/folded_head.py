"""SegFormer's decode head, computed at each stage's own resolution with unchanged parameters.

Projection and fusion are linear, and a 1x1 convolution commutes with bilinear upsampling, whose
weights sum to 1. For each stage they are one small matrix, applied before upsampling:

    fuse(cat(up(proj_4(x_4)), ..., up(proj_1(x_1)))) = sum_i up(fuse_i proj_i x_i) + fuse(biases)

BatchNorm with running statistics is folded in, too. The matrices are recomputed in every forward
pass (a percent of its time), so weights may change and gradients reach every parameter.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import SegformerForSemanticSegmentation
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from revt_hf.core.errors import UserError
from revt_hf.models.precision import full_precision


class FoldedDecodeHead(SegformerDecodeHead):
    """A decode head with the same modules and another order of operations; see :func:`fold_`.

    Projections, fusion and folded BatchNorm are not called as modules: their hooks do not run.
    """

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


def fold_(model: SegformerForSemanticSegmentation) -> SegformerForSemanticSegmentation:
    """Fold a model's decode head in place, which must be SegFormer's own; returns the model.

    Parameter names and saved files stay the same; it can be trained, saved and copied as before.
    """
    head = model.decode_head
    if type(head) not in (SegformerDecodeHead, FoldedDecodeHead):
        raise UserError(
            f"only SegFormer's own decode head can be folded, not {type(head).__name__}"
        )
    _set_class(head, FoldedDecodeHead)
    return model


def unfold_(model: SegformerForSemanticSegmentation) -> SegformerForSemanticSegmentation:
    """Undo :func:`fold_` in place; returns the same model."""
    if is_folded(model):
        _set_class(model.decode_head, SegformerDecodeHead)
    return model


def is_folded(model: SegformerForSemanticSegmentation) -> bool:
    """Whether a model's decode head is folded."""
    return isinstance(model.decode_head, FoldedDecodeHead)


@contextmanager
def folded(
    model: SegformerForSemanticSegmentation,
) -> Iterator[SegformerForSemanticSegmentation]:
    """Fold a model's decode head inside the block only."""
    before = is_folded(model)
    fold_(model)
    try:
        yield model
    finally:
        if not before:
            unfold_(model)


def _set_class(head: nn.Module, kind: type[SegformerDecodeHead]) -> None:
    # The module object stays, and with it its parameters, hooks, mode and position in the model.
    head.__class__ = kind
