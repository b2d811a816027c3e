"""The merges that one section of an experiment stands for: heads, selections and weights."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, product
from math import comb

from revt_hf.core.errors import UserError
from revt_hf.experiments.experiment_recipe import Grid, Merge
from revt_hf.merging.merge_spec import Rule

_MOST_POINTS = 10_000


def head_numbers(name: str, merge: Merge, members: Sequence[str]) -> list[int]:
    """Numbers, from 1, of the members that provide the head.

    Raises:
        UserError: a name that is no member.
    """
    if merge.heads == "first":
        return [1]
    if merge.heads == "all":
        return list(range(1, len(members) + 1))
    for head in merge.heads:
        if head not in members:
            known = ", ".join(members)
            raise UserError(f"merges.{name}.heads: '{head}' is no member: use {known}")
    return [members.index(head) + 1 for head in merge.heads]


def variants(name: str, merge: Merge, count: int) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """The rules of each selection and set of weights, by a name that is empty if there is one only.

    Raises:
        UserError: a grid has too many points.
    """
    if merge.rules is not None:
        yield "", tuple(Rule(r.select, r.method, r.weights, r.parameters) for r in merge.rules)
        return
    weights = _weights(name, merge, count)
    for select, chosen in product(merge.select, weights):
        parts = [_slug(select)] if len(merge.select) > 1 else []
        if len(weights) > 1 and chosen is not None:
            parts.append("w-" + "-".join(f"{value:g}" for value in chosen))
        yield "/".join(parts), (Rule(select, merge.method, chosen, merge.parameters),)


def _weights(name: str, merge: Merge, count: int) -> list[tuple[float, ...] | None]:
    if isinstance(merge.weights, Grid):
        return [*_grid(name, merge.weights.steps, count)]
    if merge.weights and isinstance(merge.weights[0], tuple):
        return [row for row in merge.weights if isinstance(row, tuple)]
    return [merge.weights]  # type: ignore[list-item]


def _grid(name: str, steps: int, count: int) -> Iterator[tuple[float, ...]]:
    """All weights of ``count`` members that are multiples of 1/``steps`` and sum to 1."""
    points = comb(steps + count - 1, count - 1)
    if points > _MOST_POINTS:
        raise UserError(
            f"merges.{name}.weights: {steps} steps of {count} members are {points} merges, more "
            f"than {_MOST_POINTS}"
        )
    # Stars and bars: the gaps between bars are the steps that each member gets.
    for bars in combinations(range(steps + count - 1), count - 1):
        edges = (-1, *bars, steps + count - 1)
        yield tuple((high - low - 1) / steps for low, high in pairwise(edges))


def _slug(text: str) -> str:
    """A selection as a file name."""
    short = re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.")
    return short[:60] or "selection"
