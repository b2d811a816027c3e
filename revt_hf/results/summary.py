"""What the tables and the page compute from scores: means over domains, gaps, best values."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from revt_hf.core.errors import UserError

DASH = "\u2013"
_MINUS = "\u2212"


@dataclass(frozen=True)
class Score:
    """How one model does on one domain.

    Args:
        model: the model's name.
        domain: the domain's name.
        miou: mean intersection over union, 0..100.
        iou: class name -> intersection over union, 0..100, or None for a class that occurs
            neither in the ground truth nor in the predictions.
        aacc: share of the pixels that are right, 0..100.
        images: how many images were evaluated, at least 1.

    Raises:
        UserError: a number out of its range, or not finite.
    """

    model: str
    domain: str
    miou: float
    iou: dict[str, float | None]
    aacc: float
    images: int

    def __post_init__(self) -> None:
        numbers = {"mIoU": self.miou, "aAcc": self.aacc}
        numbers |= {
            f"IoU of {name}": value for name, value in self.iou.items() if value is not None
        }
        for name, value in numbers.items():
            if not (math.isfinite(value) and 0 <= value <= 100):
                raise UserError(
                    f"score of {self.model} on {self.domain}: {name} is {value}, not in 0..100"
                )
        if self.images < 1:
            raise UserError(f"score of {self.model} on {self.domain}: no image was evaluated")


class ScoreBoard:
    """Scores by model and domain, and what follows from them.

    Args:
        scores: at most one per model and domain.
        sources: the domains trained on, as far as they were evaluated.
        targets: the unseen domains, in the order of the columns.

    Raises:
        UserError: two scores of the same model on the same domain.
    """

    def __init__(
        self, scores: Iterable[Score], sources: Sequence[str], targets: Sequence[str]
    ) -> None:
        self.sources = tuple(sources)
        self.targets = tuple(targets)
        self._scores: dict[tuple[str, str], Score] = {}
        for score in scores:
            key = (score.model, score.domain)
            if key in self._scores:
                raise UserError(f"two scores of {score.model} on {score.domain}: keep one")
            self._scores[key] = score

    def score(self, model: str, domain: str) -> Score | None:
        """The score of a model on a domain, or None."""
        return self._scores.get((model, domain))

    def miou(self, model: str, domain: str) -> float | None:
        """The mIoU of a model on a domain, 0..100, or None."""
        score = self.score(model, domain)
        return None if score is None else score.miou

    def source(self, model: str) -> float | None:
        """The mean mIoU over the source domains, 0..100; None if the model lacks one of them."""
        return mean_or_none([self.miou(model, domain) for domain in self.sources])

    def unseen(self, model: str) -> float | None:
        """The mean mIoU over all unseen domains, 0..100; None if the model lacks one of them."""
        return mean_or_none([self.miou(model, domain) for domain in self.targets])

    def images(self, domain: str) -> set[int]:
        """The numbers of images that the scores on a domain were computed from."""
        return {score.images for (_, where), score in self._scores.items() if where == domain}

    def classes(self, domain: str) -> set[str]:
        """The classes for which some model has an IoU on a domain."""
        return {
            name
            for (_, where), score in self._scores.items()
            if where == domain
            for name, value in score.iou.items()
            if value is not None
        }

    def class_means(self, models: Sequence[str]) -> dict[str, dict[str, float]]:
        """Class -> model -> mean IoU (0..100) over unseen domains.

        A domain counts for a class only if every model has a value there, so that all means of
        a class are over the same domains. Classes without such a domain are left out.
        """
        names = {name for score in self._scores.values() for name in score.iou}
        means = {}
        for name in names:
            columns = []
            for domain in self.targets:
                scores = [self.score(model, domain) for model in models]
                column = [None if score is None else score.iou.get(name) for score in scores]
                if None not in column:
                    columns.append(column)
            if columns and models:
                means[name] = {
                    model: math.fsum(column[row] or 0.0 for column in columns) / len(columns)
                    for row, model in enumerate(models)
                }
        return means


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean, or None if there is no value or one is missing: means stay comparable."""
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return None
    return math.fsum(present) / len(present)


@dataclass(frozen=True)
class Spread:
    """Values of one cell, at least one: the mIoU of several seeds and heads, 0..100."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """Their population standard deviation, as the original's ``collect_results.py``."""
        return statistics.pstdev(self.values)


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
    """mIoU on the source domain minus the one on unseen domains (printed numbers), or None."""
    return None if source is None or unseen is None else difference(source, unseen)


def signed(delta: float | None) -> str:
    """A difference with its sign, one decimal, or a dash for None."""
    if delta is None:
        return DASH
    if abs(delta) < 0.05:
        return "\u00b10.0"
    return f"{'+' if delta > 0 else _MINUS}{abs(delta):.1f}"


def best_rows(column: Sequence[float | None]) -> set[int]:
    """The rows that hold the best printed number; none if fewer than two rows have one."""
    present = {row: shown(value) for row, value in enumerate(column) if value is not None}
    if len(present) < 2:
        return set()
    best = shown(max(value for value in column if value is not None))
    return {row for row, text in present.items() if text == best}
