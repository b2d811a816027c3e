"""AdamW, its learning rates, and averages of the weights: a moving one (EMA) and SWAD's window."""

import logging
from collections.abc import Mapping
from functools import reduce
from typing import Any, TypedDict

import torch
from torch import nn

from revt_hf.checkpoints.names import HEAD_PREFIX
from revt_hf.config.recipe import Optimizer, Schedule


def parameter_groups(model: nn.Module, spec: Optimizer) -> list[dict[str, Any]]:
    """Four groups: encoder or decode head, with weight decay or without.

    The decode head's learning rate is ``head_lr_factor`` times the base. LayerNorm parameters do
    not decay; everything else does, including biases and the head's BatchNorm, like the paper's
    ``custom_keys`` (``head``: lr_mult 10, ``norm``: decay_mult 0). Each group keeps its initial
    learning rate as ``base_lr``.
    """
    undecayed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = (name.startswith(HEAD_PREFIX), id(parameter) not in undecayed)
        groups.setdefault(key, []).append(parameter)
    result = []
    for (in_head, decays), parameters in sorted(groups.items()):
        base_lr = spec.lr * (spec.head_lr_factor if in_head else 1.0)
        result.append(
            {
                "params": parameters,
                "lr": base_lr,
                "base_lr": base_lr,
                "weight_decay": spec.weight_decay if decays else 0.0,
            }
        )
    return result


def build_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.AdamW:
    """Fused AdamW over :func:`parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(model, spec), betas=spec.betas, fused=True)


def learning_rate(base_lr: float, step: int, steps: int, spec: Schedule) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of ``steps``.

    Poly decay ``(base - min) * (1 - step / steps) ** power + min``, multiplied by a linear
    warm-up from ``warmup_ratio`` to 1 over ``warmup_steps`` (mmcv's ``PolyLrUpdaterHook`` with
    ``warmup='linear'``).
    """
    decayed = (base_lr - spec.min_lr) * (1 - step / steps) ** spec.power + spec.min_lr
    if step >= spec.warmup_steps:
        return decayed
    return decayed * (1 - (1 - step / spec.warmup_steps) * (1 - spec.warmup_ratio))


def set_learning_rate(optimizer: Any, step: int, steps: int, spec: Schedule) -> None:
    """Set every group's learning rate for ``step``; see :func:`learning_rate`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["base_lr"], step, steps, spec)


_log = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]


class MovingAverage:
    """Keeps ``decay * average + (1 - decay) * weights`` in float32; buffers are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._average = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the current weights."""
        learned = {name for name, _ in model.named_parameters()}
        for name, tensor in model.state_dict().items():
            if name in learned:
                average = self._average[name]
                average.lerp_(tensor.to(average.dtype), 1 - self._decay)
            else:
                self._average[name].copy_(tensor)

    def state_dict(self) -> Weights:
        """The averaged weights, under the model's names."""
        return self._average

    def load_state_dict(self, state: Weights) -> None:
        """Resume from a saved average."""
        for name, tensor in state.items():
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


class WindowAverage:
    """SWAD: the mean of the weights after every step of a window, in float32.

    The window opens with a segment (the steps between two validations) whose loss is the lowest of
    ``patience`` consecutive ones, the segment itself being the first of them: from there on the
    loss no longer falls. It closes before ``overfit_patience`` consecutive segments whose loss
    exceeds ``tolerance`` times the mean loss of those that opened it. Float buffers (BatchNorm's
    running statistics) are averaged as well; of counters the latest value is kept.

    Finished segments are held in CPU memory, at most one more than the larger patience.

    Reference: Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, NeurIPS 2021,
    algorithm 1, with the loss of a segment measured at its end.
    """

    def __init__(self, patience: int, overfit_patience: int, tolerance: float) -> None:
        self._patience = patience
        self._overfit_patience = overfit_patience
        self._tolerance = tolerance
        self._step = 0
        self._since = 1
        self._running: Weights = {}
        # Before the window opens: the latest segments; afterwards: those above the level.
        self._waiting: list[_Segment] = []
        self._level: float | None = None
        self._closed = False
        self._window: _Segment | None = None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after one more step."""
        self._step += 1
        if self._closed:
            return
        weights = model.state_dict()
        count = self._step - self._since + 1
        if count == 1:
            self._running = {name: tensor.detach().clone() for name, tensor in weights.items()}
            return
        # Those of a checkpoint were read into CPU memory.
        self._running = {
            name: tensor.to(weights[name].device) for name, tensor in self._running.items()
        }
        _move(self._running, weights, 1 / count)

    def validated(self, loss: float) -> None:
        """End a segment."""
        if self._closed:
            return
        weights = {name: tensor.cpu() for name, tensor in self._running.items()}
        self._waiting.append(
            {"weights": weights, "first": self._since, "last": self._step, "loss": loss}
        )
        self._since = self._step + 1
        if self._level is None:
            self._open()
        elif loss <= self._level:
            self._include(len(self._waiting))
        elif len(self._waiting) >= self._overfit_patience:
            self._include(len(self._waiting) - self._overfit_patience)
            self._waiting, self._running, self._closed = [], {}, True

    def result(self) -> tuple[Weights, dict[str, Any]]:
        """The averaged weights, under the model's names, and the steps they are the mean of.

        If the loss fell until the end, these are the weights of the last segment alone, as in the
        authors' implementation, and a warning is logged.
        """
        if self._window is None:
            found = self._waiting[-1]
            _log.warning(
                "SWAD: the loss on source-val did not stop falling within %d validations; the "
                "average is over the last segment only (steps %d to %d)",
                self._patience,
                found["first"],
                found["last"],
            )
        else:
            found = reduce(_joined, self._waiting, self._window)
        return found["weights"], {
            "first_step": found["first"],
            "last_step": found["last"],
            "opened": self._window is not None,
            "closed": self._closed,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "step": self._step,
            "since": self._since,
            "running": self._running,
            "waiting": list(self._waiting),
            "level": self._level,
            "closed": self._closed,
            "window": self._window,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved state."""
        self._step, self._since = state["step"], state["since"]
        self._running, self._waiting = state["running"], list(state["waiting"])
        self._level, self._closed, self._window = state["level"], state["closed"], state["window"]

    def _open(self) -> None:
        self._waiting = self._waiting[-self._patience :]
        losses = [segment["loss"] for segment in self._waiting]
        if len(losses) == self._patience and losses[0] == min(losses):
            # Rounding must not put the level below the lowest loss.
            self._level = max(self._tolerance * sum(losses) / len(losses), losses[0])
            self._include(max(n for n, loss in enumerate(losses) if loss <= self._level) + 1)

    def _include(self, count: int) -> None:
        """Move the oldest ``count`` waiting segments into the window."""
        for segment in self._waiting[:count]:
            self._window = _joined(self._window, segment) if self._window else segment
        self._waiting = self._waiting[count:]


def _move(average: Weights, weights: Mapping[str, torch.Tensor], share: float) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, share)
        else:
            average[name].copy_(tensor)
