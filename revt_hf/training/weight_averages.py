"""Averages of the weights over a run: the moving average (EMA), and SWAD's window of steps."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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


@dataclass
class _Segment:
    """Mean weights of the steps ``first`` to ``last``, and the loss after the last one."""

    weights: Weights
    first: int
    last: int
    loss: float

    def joined(self, other: "_Segment") -> "_Segment":
        """The mean over both; ``other`` comes next."""
        weights = {name: tensor.clone() for name, tensor in self.weights.items()}
        _move(
            weights, other.weights, (other.last - other.first + 1) / (other.last - self.first + 1)
        )
        return _Segment(weights, self.first, other.last, other.loss)


class WindowAverage:
    """SWAD: the mean of the weights after every step of a window, in float32.

    The window opens with a segment (the steps between two validations) whose loss is the lowest of
    ``patience`` consecutive ones, the segment itself being the first of them: from there on the
    loss no longer falls. It closes before ``overfit_patience`` consecutive segments whose loss
    exceeds ``tolerance`` times the mean loss of those that opened it. Float buffers (BatchNorm's
    running statistics) are averaged as well; of counters the latest value is kept.

    Finished segments are held in CPU memory, at most one more than the larger patience.

    Args:
        patience: segments, at least 1; N_s in the paper.
        overfit_patience: segments, at least 1; N_e in the paper.
        tolerance: a factor of at least 1; r in the paper.

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
        """End a segment.

        Args:
            loss: on source-val, after the latest step.
        """
        if self._closed:
            return
        weights = {name: tensor.cpu() for name, tensor in self._running.items()}
        self._waiting.append(_Segment(weights, self._since, self._step, loss))
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
        window = self._window
        if window is None:
            found = self._waiting[-1]
            _log.warning(
                "SWAD: the loss on source-val did not stop falling within %d validations; the "
                "average is over the last segment only (steps %d to %d)",
                self._patience,
                found.first,
                found.last,
            )
        else:
            found = window
            for segment in self._waiting:
                found = found.joined(segment)
        return found.weights, {
            "first_step": found.first,
            "last_step": found.last,
            "opened": window is not None,
            "closed": self._closed,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "step": self._step,
            "since": self._since,
            "running": self._running,
            "waiting": [dict(vars(segment)) for segment in self._waiting],
            "level": self._level,
            "closed": self._closed,
            "window": dict(vars(self._window)) if self._window is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved state."""
        self._step, self._since = state["step"], state["since"]
        self._running = state["running"]
        self._waiting = [_Segment(**one) for one in state["waiting"]]
        self._level, self._closed = state["level"], state["closed"]
        self._window = _Segment(**state["window"]) if state["window"] is not None else None

    def _open(self) -> None:
        """Open the window if the loss has stopped falling."""
        self._waiting = self._waiting[-self._patience :]
        losses = [segment.loss for segment in self._waiting]
        if len(losses) == self._patience and losses[0] == min(losses):
            # Rounding must not put the level below the lowest loss.
            self._level = max(self._tolerance * sum(losses) / len(losses), losses[0])
            self._include(max(n for n, loss in enumerate(losses) if loss <= self._level) + 1)

    def _include(self, count: int) -> None:
        """Move the oldest ``count`` waiting segments into the window."""
        for segment in self._waiting[:count]:
            self._window = self._window.joined(segment) if self._window else segment
        self._waiting = self._waiting[count:]


def _move(average: Weights, weights: Mapping[str, torch.Tensor], share: float) -> None:
    """Move an average towards weights, in place; integers are copied."""
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, share)
        else:
            average[name].copy_(tensor)
