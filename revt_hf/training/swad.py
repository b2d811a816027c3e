"""SWAD: the mean of all weights within a window of steps that source-val's loss chooses.

Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, NeurIPS 2021, algorithm 1; the loss
is measured at validations, so the window consists of the segments between them.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_log = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]


@dataclass
class _Segment:
    """The mean weights of the steps ``first`` to ``last``, and the loss at its end."""

    weights: Weights
    first: int
    last: int
    loss: float

    @property
    def steps(self) -> int:
        return self.last - self.first + 1


class WindowAverage:
    """Averages the weights after every step of a window, in float32.

    The window opens with the segment whose loss is the least of ``patience`` in a row, if it is
    the first of them: from there on the loss no longer falls. It closes before ``overfit_patience``
    segments in a row whose loss is above ``tolerance`` times the mean loss of those by which it
    opened. Buffers of floats (BatchNorm's running statistics) are averaged as well, counters are
    the newest.

    Finished segments lie in the CPU's memory, at most one more than the larger patience of them.

    Args:
        patience: segments, at least 1; the paper's N_s.
        overfit_patience: segments, at least 1; the paper's N_e.
        tolerance: a factor of at least 1; the paper's r.
    """

    def __init__(self, patience: int, overfit_patience: int, tolerance: float) -> None:
        self._patience = patience
        self._overfit_patience = overfit_patience
        self._tolerance = tolerance
        self._step = 0
        self._since = 1
        self._running: Weights = {}
        # Before the window opens: the newest segments; then: those above the level.
        self._waiting: list[_Segment] = []
        self._level: float | None = None
        self._closed = False
        self._window: _Segment | None = None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after one more step."""
        self._step += 1
        if self._closed:
            return
        weights = model.state_dict()
        count = self._step - self._since + 1
        if count == 1:
            self._running = {name: tensor.detach().clone() for name, tensor in weights.items()}
            return
        # A checkpoint's were read into the CPU's memory.
        self._running = {
            name: tensor.to(weights[name].device) for name, tensor in self._running.items()
        }
        _draw_near(self._running, weights, 1 / count)

    def validated(self, loss: float) -> None:
        """End a segment here.

        Args:
            loss: source-val's, after the newest step.
        """
        if self._closed:
            return
        weights = {name: tensor.cpu() for name, tensor in self._running.items()}
        segment = _Segment(weights, self._since, self._step, loss)
        self._since = self._step + 1
        self._waiting.append(segment)
        if self._level is not None:
            if loss <= self._level:
                self._put_in(len(self._waiting))
            elif len(self._waiting) >= self._overfit_patience:
                self._put_in(len(self._waiting) - self._overfit_patience)
                self._waiting, self._running, self._closed = [], {}, True
            return
        self._waiting = self._waiting[-self._patience :]
        losses = [one.loss for one in self._waiting]
        if len(losses) == self._patience and losses[0] == min(losses):
            # Not below the least by rounding.
            self._level = max(self._tolerance * sum(losses) / len(losses), losses[0])
            within = max(n for n, loss in enumerate(losses) if loss <= self._level) + 1
            self._put_in(within)

    def result(self) -> tuple[Weights, dict[str, Any]]:
        """The averaged weights, named as the model's, and what they are the mean of.

        Of a run whose loss fell until the end, they are those of the last segment alone, as in the
        authors' implementation; a remark says so.
        """
        if self._window is None:
            last = self._waiting[-1]
            _log.warning(
                "SWAD: the loss on source-val did not stop falling within %d validations; the "
                "average is over the last segment only (steps %d to %d)",
                self._patience,
                last.first,
                last.last,
            )
            return last.weights, _record(last, opened=False, closed=False)
        window = self._window
        for one in self._waiting:
            window = _joined(window, one)
        return window.weights, _record(window, opened=True, closed=self._closed)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "step": self._step,
            "since": self._since,
            "running": self._running,
            "waiting": [_plain(one) for one in self._waiting],
            "level": self._level,
            "closed": self._closed,
            "window": _plain(self._window) if self._window is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self._step, self._since = state["step"], state["since"]
        self._running = state["running"]
        self._waiting = [_Segment(**one) for one in state["waiting"]]
        self._level, self._closed = state["level"], state["closed"]
        self._window = _Segment(**state["window"]) if state["window"] is not None else None

    def _put_in(self, count: int) -> None:
        """The oldest ``count`` that wait belong to the window."""
        for one in self._waiting[:count]:
            self._window = one if self._window is None else _joined(self._window, one)
        self._waiting = self._waiting[count:]


def _draw_near(average: Weights, weights: Mapping[str, torch.Tensor], share: float) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, share)
        else:
            average[name].copy_(tensor)


def _joined(first: _Segment, second: _Segment) -> _Segment:
    weights = {name: tensor.clone() for name, tensor in first.weights.items()}
    _draw_near(weights, second.weights, second.steps / (first.steps + second.steps))
    return _Segment(weights, first.first, second.last, second.loss)


def _plain(segment: _Segment) -> dict[str, Any]:
    return dict(vars(segment))


def _record(segment: _Segment, opened: bool, closed: bool) -> dict[str, Any]:
    return {
        "first_step": segment.first,
        "last_step": segment.last,
        "opened": opened,
        "closed": closed,
    }
