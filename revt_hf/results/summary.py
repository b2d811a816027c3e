"""Means, spreads, differences and best values, and how they are printed."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

DASH = "\u2013"
_MINUS = "\u2212"


@dataclass(frozen=True)
class Spread:
    """The values of one cell, at least one: the mIoU of several seeds and heads, 0..100."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """Their population standard deviation, as in the original's ``collect_results.py``."""
        return statistics.pstdev(self.values)


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean, or None if there is no value or one is missing: means stay comparable."""
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return None
    return math.fsum(present) / len(present)


def shown_spread(spread: Spread | None) -> str:
    """``28.7 ± 1.2``, only the mean for one value, a dash for None."""
    if spread is None or len(spread.values) == 1:
        return shown(spread.mean if spread else None)
    return f"{shown(spread.mean)} \u00b1 {shown(spread.std)}"


def shown(value: float | None) -> str:
    """A number as the tables print it: one decimal, or a dash for None."""
    return DASH if value is None else f"{value:.1f}"


def difference(value: float, reference: float) -> float:
    """``value - reference`` of the printed numbers, so that a reader's subtraction agrees."""
    return round(round(value, 1) - round(reference, 1), 1)


def gap(source: float | None, unseen: float | None) -> float | None:
    """mIoU on the source domain minus that on unseen domains (printed numbers), or None."""
    return None if source is None or unseen is None else difference(source, unseen)


def signed(delta: float | None) -> str:
    """A difference with its sign, one decimal, or a dash for None."""
    if delta is None:
        return DASH
    if abs(delta) < 0.05:
        return "\u00b10.0"
    return f"{'+' if delta > 0 else _MINUS}{abs(delta):.1f}"


def best_rows(column: Sequence[float | None]) -> set[int]:
    """The rows with the best printed number; none if fewer than two rows have one."""
    present = {row: shown(value) for row, value in enumerate(column) if value is not None}
    if len(present) < 2:
        return set()
    best = shown(max(value for value in column if value is not None))
    return {row for row, text in present.items() if text == best}
