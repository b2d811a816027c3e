"""Choose members and weights of a merge by source-val mIoU, never by that of a target."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from revt_hf.analysis.blending import Blend, Blender, HeadScore, OnImage, ScoringData, score_heads
from revt_hf.core.errors import UserError

Weights = tuple[Fraction, ...]
# Weights that agree to this many decimals are the same merge.
_DECIMALS = 4
# Share of the evaluations for the grid; the rest refines its best point.
_GRID_SHARE = 0.5


@dataclass(frozen=True)
class Candidate:
    """A merge of members (numbers from 1), and its score with the head of each number."""

    members: tuple[int, ...]
    weights: tuple[float, ...] | None
    scores: dict[int, HeadScore]

    @property
    def head(self) -> int:
        """Number of the head with the best mIoU, the first of equals."""
        return max(self.scores, key=lambda head: self.scores[head].miou)

    @property
    def miou(self) -> float:
        """mIoU with the best head, in percent."""
        return self.scores[self.head].miou

    def to_json(self) -> dict[str, Any]:
        heads = {str(n): score.model_dump(by_alias=True) for n, score in self.scores.items()}
        return {
            "members": list(self.members),
            "weights": list(self.weights) if self.weights is not None else None,
            "head": self.head,
            "mIoU": self.miou,
            "heads": heads,
        }


@dataclass(frozen=True)
class Choice:
    """The chosen merge, all merges that were tried, and what each member adds if measured."""

    chosen: Candidate
    tried: tuple[Candidate, ...]
    values: dict[int, float] = field(default_factory=dict)


class MergeScorer:
    """Scores merges on source-val with the given ``head``, or the best of their members' heads."""

    def __init__(
        self,
        blender: Blender,
        data: ScoringData,
        head: int | None = None,
        on_image: OnImage = lambda: None,
    ) -> None:
        for split in data.splits:
            if not split.is_source:
                raise UserError(
                    f"{split.label} is a target: members and weights are chosen on source-val only"
                )
        self.members = tuple(range(1, len(blender.members) + 1))
        if head is not None and head not in self.members:
            raise UserError(f"--head {head}: there are members 1 to {len(self.members)}")
        self._blender, self._data, self._head, self._on_image = blender, data, head, on_image
        self._heads: dict[int, nn.Module] = {}

    def mean(self, members: Sequence[int]) -> Candidate:
        """Score the plain mean of some members' encoders, or a single member."""
        return self._scored(members, None, Blend(tuple(number - 1 for number in members)))

    def weighted(self, weights: Sequence[float]) -> Candidate:
        """Score a weighted mean of all members' encoders."""
        return self._scored(self.members, tuple(map(float, weights)), Blend.weighted(weights))

    def _scored(
        self, members: Sequence[int], weights: tuple[float, ...] | None, blend: Blend
    ) -> Candidate:
        self._blender.blend_encoder(blend)
        wanted = list(members) if self._head is None else [self._head]
        for number in wanted:
            if number not in self._heads:
                self._heads[number] = self._blender.head(number - 1)
        heads = {str(number): self._heads[number] for number in wanted}
        scores = score_heads(self._blender.model, heads, self._data, self._on_image)
        return Candidate(tuple(members), weights, {int(head): one for head, one in scores.items()})


def greedy_soup(scorer: MergeScorer, _: int = 0) -> Choice:
    """Add members, the best first, as long as the mIoU does not drop.

    Wortsman et al., Model Soups, ICML 2022, recipe 1; here encoders are averaged and a head kept.
    """
    tried = [scorer.mean([number]) for number in scorer.members]
    # Equals keep their order.
    soup, *others = sorted(tried, key=lambda candidate: -candidate.miou)
    for candidate in others:
        larger = scorer.mean([*soup.members, *candidate.members])
        tried.append(larger)
        if larger.miou >= soup.miou:
            soup = larger
    return Choice(soup, tuple(tried))


def leave_one_out(scorer: MergeScorer, _: int = 0) -> Choice:
    """Measure what each member adds to the mean of all, and choose the best of the means."""
    if len(scorer.members) < 3:
        raise UserError("leave-one-out needs at least three members: without one, two are a merge")
    everyone = scorer.mean(scorer.members)
    without = {
        number: scorer.mean([other for other in scorer.members if other != number])
        for number in scorer.members
    }
    tried = (everyone, *without.values())
    # Of equals the largest.
    best = max(tried, key=lambda candidate: (candidate.miou, len(candidate.members)))
    values = {number: everyone.miou - candidate.miou for number, candidate in without.items()}
    return Choice(best, tried, values)


def search_weights(scorer: MergeScorer, evaluations: int) -> Choice:
    """Search for the best non-negative weights of sum 1: a grid, then Nelder-Mead from its best.

    The grid is the finest one that half of the evaluations allow, at least the corners. Nelder and
    Mead, A Simplex Method for Function Minimization, 1965; points are projected onto the simplex.
    """
    count = len(scorer.members)
    if evaluations < count:
        raise UserError(
            f"--evaluations {evaluations}: use at least {count}, one for each member alone"
        )
    tried: dict[tuple[float, ...], Candidate] = {}

    def miou(weights: Sequence[float]) -> float:
        key = tuple(round(float(weight), _DECIMALS) for weight in weights)
        if key not in tried:
            if len(tried) == evaluations:
                raise _Spent
            tried[key] = scorer.weighted(key)
        return tried[key].miou

    steps = 1
    while math.comb(steps + count, count - 1) <= int(evaluations * _GRID_SHARE):
        steps += 1
    for point in simplex(count, steps):
        miou([float(weight) for weight in point])
    best = max(tried, key=lambda key: tried[key].miou)
    with contextlib.suppress(_Spent):
        _nelder_mead(miou, np.array(best), 0.5 / steps, evaluations)
    return Choice(max(tried.values(), key=lambda candidate: candidate.miou), tuple(tried.values()))


class _Spent(Exception):  # noqa: N818
    """No evaluation is left."""


def _nelder_mead(
    miou: Callable[[Sequence[float]], float], best: NDArray[np.float64], reach: float, most: int
) -> None:
    from scipy.optimize import minimize

    # All weights but the last are free; the first steps go from the best point to the corners.
    vertices = [best + reach * (corner - best) for corner in np.eye(len(best))]
    # Drop the shortest step: from a corner to itself it would be none.
    vertices.sort(key=lambda vertex: -np.abs(vertex - best).sum())
    initial = np.array([best, *vertices[: len(best) - 1]])[:, :-1]
    accuracy = {"maxfev": 4 * most, "xatol": 10**-_DECIMALS, "fatol": 1e-3}
    minimize(
        lambda free: -miou(projected(np.append(free, 1 - free.sum())).tolist()),
        initial[0],
        method="Nelder-Mead",
        options={"initial_simplex": initial, **accuracy},
    )


def simplex(corners: int, steps: int) -> list[Weights]:
    """All weights of sum 1 that are multiples of 1/steps, from the first corner to the last."""

    def parts(left: int, count: int) -> Iterator[tuple[int, ...]]:
        if count == 1:
            yield (left,)
            return
        for one in range(left, -1, -1):
            yield from ((one, *rest) for rest in parts(left - one, count - 1))

    return [tuple(Fraction(part, steps) for part in point) for point in parts(steps, corners)]


def new_points(levels: Sequence[int], corners: int = 3) -> list[list[Weights]]:
    """For each level (number of steps), the points of the grid that no earlier level has."""
    seen: set[Weights] = set()
    fresh = []
    for steps in levels:
        fresh.append([point for point in simplex(corners, steps) if point not in seen])
        seen.update(fresh[-1])
    return fresh


def projected(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest non-negative weights of sum 1.

    Duchi et al., Efficient Projections onto the l1-Ball, ICML 2008, figure 1.
    """
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(values) + 1)
    return np.maximum(values - excess[falling > excess][-1], 0.0)
