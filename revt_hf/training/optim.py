"""AdamW, its learning rates, and averages of the weights: a moving one (EMA) and SWAD's window."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypedDict

import torch
from torch import nn
from transformers import PreTrainedModel

from revt_hf.config.recipe import Optimizer, Schedule
from revt_hf.models.networks import family_of_model

_log = logging.getLogger(__name__)
Weights = dict[str, torch.Tensor]
_UNDECAYED = re.compile("position|relative_|_tokens?$|layer_scale|lambda")


def parameter_groups(model: PreTrainedModel, spec: Optimizer) -> list[dict[str, Any]]:
    """Encoder or decode head, with decay or without, as the paper's ``custom_keys``.

    LayerNorm is without, and what mmsegmentation spares in other families, as in its configurations
    of Swin: positions, special tokens and the scales of layers.
    """
    undecayed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    family = family_of_model(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head = not family.in_encoder(name)
        decays = id(parameter) not in undecayed and not _UNDECAYED.search(name)
        lr = spec.lr * (spec.head_lr_factor if in_head else 1.0)
        decay = spec.weight_decay if decays else 0.0
        group = {"params": [], "lr": lr, "base_lr": lr, "weight_decay": decay}
        groups.setdefault((in_head, decays), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def build_optimizer(model: PreTrainedModel, spec: Optimizer) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameter_groups(model, spec), betas=spec.betas, fused=True)


def learning_rate(base_lr: float, step: int, steps: int, spec: Schedule) -> float:
    """That of step ``step`` (from 0), as mmcv's ``PolyLrUpdaterHook`` with ``warmup='linear'``."""
    decayed = (base_lr - spec.min_lr) * (1 - step / steps) ** spec.power + spec.min_lr
    if step >= spec.warmup_steps:
        return decayed
    return decayed * (1 - (1 - step / spec.warmup_steps) * (1 - spec.warmup_ratio))


def set_learning_rate(optimizer: Any, step: int, steps: int, spec: Schedule) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["base_lr"], step, steps, spec)


class MovingAverage:
    """Keeps ``decay * average + (1 - decay) * weights`` in float32; buffers are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._average = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        learned = {name for name, _ in model.named_parameters()}
        for name, tensor in model.state_dict().items():
            if name in learned:
                self._average[name].lerp_(tensor, 1 - self._decay)
            else:
                self._average[name].copy_(tensor)

    def state_dict(self) -> Weights:
        """The averaged weights, under the model's names."""
        return self._average

    def load_state_dict(self, state_dict: Weights) -> None:
        for name, tensor in state_dict.items():
            self._average[name].copy_(tensor)


class _Segment(TypedDict):
    """Mean weights of the steps ``first`` to ``last``, and the loss after the last one."""

    weights: Weights
    first: int
    last: int
    loss: float


def _joined(one: _Segment, other: _Segment) -> _Segment:
    """The mean over both; ``other`` comes next."""
    weights = {name: tensor.clone() for name, tensor in one["weights"].items()}
    steps, total = other["last"] - other["first"] + 1, other["last"] - one["first"] + 1
    _move(weights, other["weights"], steps / total)
    return {**other, "weights": weights, "first": one["first"]}


@dataclass
class WindowAverage:
    """SWAD (Cha et al., NeurIPS 2021, algorithm 1): the mean weights of a window of steps.

    The window opens with a segment (the steps between two validations) whose loss, measured at its
    end, is the lowest of ``patience`` consecutive ones, itself the first: from there on the loss no
    longer falls. It closes before ``overfit_patience`` consecutive segments whose loss exceeds
    ``tolerance`` times the mean of those that opened it. Float buffers are averaged as well; of
    counters the latest value is kept. Finished segments are in CPU memory, at most one more than
    the larger patience.
    """

    patience: int
    overfit_patience: int
    tolerance: float
    step: int = 0
    since: int = 1
    running: Weights = field(default_factory=dict)
    # Before the window opens: the latest segments; afterwards: those above the level.
    waiting: list[_Segment] = field(default_factory=list)
    level: float | None = None
    closed: bool = False
    window: _Segment | None = None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after one more step."""
        self.step += 1
        if self.closed:
            return
        weights = model.state_dict()
        count = self.step - self.since + 1
        if count == 1:
            self.running = {name: tensor.detach().clone() for name, tensor in weights.items()}
            return
        # Those of a checkpoint were read into CPU memory.
        self.running = {
            name: tensor.to(weights[name].device) for name, tensor in self.running.items()
        }
        _move(self.running, weights, 1 / count)

    def validated(self, loss: float) -> None:
        """End a segment."""
        if self.closed:
            return
        weights = {name: tensor.cpu() for name, tensor in self.running.items()}
        segment = _Segment(weights=weights, first=self.since, last=self.step, loss=loss)
        self.waiting = [*self.waiting, segment]
        self.since = self.step + 1
        if self.level is None:
            self._open()
        elif loss <= self.level:
            self._include(len(self.waiting))
        elif len(self.waiting) >= self.overfit_patience:
            self._include(len(self.waiting) - self.overfit_patience)
            self.waiting, self.running, self.closed = [], {}, True

    def result(self) -> tuple[Weights, dict[str, Any]]:
        """The averaged weights, under the model's names, and the steps they are the mean of."""
        if self.window is None:
            # As in the authors' implementation.
            found = self.waiting[-1]
            _log.warning(
                "SWAD: the loss on source-val did not stop falling within %d validations; the "
                "average is over the last segment only (steps %d to %d)",
                self.patience,
                found["first"],
                found["last"],
            )
        else:
            found = reduce(_joined, self.waiting, self.window)
        return found["weights"], {
            "first_step": found["first"],
            "last_step": found["last"],
            "opened": self.window is not None,
            "closed": self.closed,
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in _STATE:
            setattr(self, name, state_dict[name])

    def _open(self) -> None:
        self.waiting = self.waiting[-self.patience :]
        losses = [segment["loss"] for segment in self.waiting]
        if len(losses) == self.patience and losses[0] == min(losses):
            # Rounding must not put the level below the lowest loss.
            self.level = max(self.tolerance * sum(losses) / len(losses), losses[0])
            self._include(max(n for n, loss in enumerate(losses) if loss <= self.level) + 1)

    def _include(self, count: int) -> None:
        """Move the oldest ``count`` waiting segments into the window."""
        for segment in self.waiting[:count]:
            self.window = _joined(self.window, segment) if self.window else segment
        self.waiting = self.waiting[count:]


# What a resumed run needs.
_STATE = ("step", "since", "running", "waiting", "level", "closed", "window")


def _move(average: Weights, weights: Mapping[str, torch.Tensor], share: float) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, share)
        else:
            average[name].copy_(tensor)
