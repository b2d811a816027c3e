"""Training steps: transformers' own and ours, with the recipe's fields that change speed."""

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from revt_hf.config.recipe import Optimizer, Training
from revt_hf.models.folded_head import fold_
from revt_hf.models.precision import bf16_autocast
from revt_hf.speed.measuring import Model
from revt_hf.training.loss import segmentation_loss
from revt_hf.training.optim import build_optimizer, parameter_groups

# Rows of a strip: the time is the same from 8 to 64.
LOSS_ROWS = 16
FIRST = "transformers labels="

AdamW = Literal["fused", "foreach", "for-loop"]


@dataclass(frozen=True)
class StepKind:
    """A kind of training step.

    Attributes:
        fields: of a recipe's ``train`` section: ``folded_head``, ``loss_rows``, ``precision`` and
            ``compile`` matter here.
        labels: use transformers' own loss, by its ``labels=`` argument.
        adamw: torch's implementation; trainings use ``fused``.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    labels: bool = False
    adamw: AdamW = "fused"

    @property
    def settings(self) -> Training:
        """A recipe's ``train`` section with these fields."""
        return Training.model_validate(self.fields)


_BOTH = {"folded_head": True, "loss_rows": LOSS_ROWS}
# The others are compared with the first.
STEPS = {
    FIRST: StepKind(labels=True),
    "ours": StepKind(),
    "folded_head": StepKind({"folded_head": True}),
    "loss_rows": StepKind({"loss_rows": LOSS_ROWS}),
    "folded_head, loss_rows": StepKind(_BOTH),
    "folded_head, loss_rows, bf16": StepKind({**_BOTH, "precision": "bf16"}),
    "folded_head, loss_rows, compile": StepKind({**_BOTH, "compile": True}),
    "ours, AdamW foreach": StepKind(adamw="foreach"),
    "ours, AdamW for-loop": StepKind(adamw="for-loop"),
}


def adamw(model: nn.Module, kind: AdamW) -> torch.optim.AdamW:
    """The optimizer of a training, in one of torch's implementations."""
    if kind == "fused":
        return build_optimizer(model, Optimizer())
    groups = parameter_groups(model, Optimizer())
    return torch.optim.AdamW(groups, betas=Optimizer().betas, foreach=kind == "foreach")


class TrainingStep:
    """A training step; each one sees the same images and draws the same dropout and drop path.

    Args:
        model: on its device; it is changed to train this way.
        kind: of the step.
        pixels: (N, 3, H, W) float32, on the model's device.
        labels: (N, H, W) int64, 0..18 and 255, on the model's device.
        optimizer: of the model's parameters; None for its own.
    """

    def __init__(
        self,
        model: Model,
        kind: StepKind,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self._settings, self._labels_argument = kind.settings, kind.labels
        self._pixels, self._labels = pixels, labels
        self.model: Any = model.train()
        if self._settings.folded_head:
            fold_(model)
        if self._settings.compile:
            model.compile()
        self.optimizer = optimizer or adamw(model, kind.adamw)

    def __call__(self) -> float:
        """Do a step and return its loss; the work on a GPU is done."""
        torch.manual_seed(0)
        loss = self._loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def _loss(self) -> torch.Tensor:
        if self._labels_argument:
            stock: torch.Tensor = self.model(pixel_values=self._pixels, labels=self._labels).loss
            return stock
        settings = self._settings
        with bf16_autocast(self._pixels.device, settings.precision == "bf16"):
            logits = self.model(pixel_values=self._pixels).logits
        return segmentation_loss(logits, self._labels, settings.loss, rows=settings.loss_rows)

    def held_bytes(self) -> int:
        """Memory that stays between steps: parameters, buffers, the optimizer's state."""
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        tensors = [value for value in state if isinstance(value, torch.Tensor)]
        held = [*self.model.parameters(), *self.model.buffers(), *tensors]
        return sum(tensor.nbytes for tensor in held)


def shared_copy(model: Model) -> Model:
    """A copy with modules of its own and the model's parameters and buffers."""
    tensors = (*model.parameters(), *model.buffers())
    copied: Model = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    return copied
