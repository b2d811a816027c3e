"""Seconds of several ways of doing the same work, in turn, so that a drifting machine is fair."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Call = Callable[[], Any]
_IN_A_ROW, _TURNS = 5, 8


def seconds_of(call: Call, device: torch.device) -> float:
    """How long a call takes, the work that it gives to a GPU included."""
    _finish(device)
    since = time.perf_counter()
    call()
    _finish(device)
    return time.perf_counter() - since


def in_a_row(runs: int) -> int:
    """How many of so many runs of a call follow each other: at most 5, so that turns are 8."""
    return max(1, min(_IN_A_ROW, runs // _TURNS))


def interleaved(
    calls: Mapping[str, Call], device: torch.device, runs: int, after_each: Callable[[], Any]
) -> dict[str, list[float]]:
    """Time each call ``runs`` times: some of the first, as many of the second, and again.

    Args:
        calls: what to time, by name.
        device: where they work.
        runs: of each; :func:`in_a_row` of them follow each other.
        after_each: called after each run, not timed.

    Returns:
        Seconds of each run, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    turn = in_a_row(runs)
    for first in range(0, runs, turn):
        for name, call in calls.items():
            for _ in range(min(turn, runs - first)):
                seconds[name].append(seconds_of(call, device))
                after_each()
    return seconds


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
