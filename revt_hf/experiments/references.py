"""How an experiment names members, and the merges that one section stands for."""

import fnmatch
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations, pairwise, product
from math import comb
from typing import Any

from revt_hf.core.errors import UserError
from revt_hf.experiments.experiment_recipe import Experiment, Grid, MergeSection
from revt_hf.merging.merge_recipe import RuleRecipe
from revt_hf.merging.registry import Rule

_MOST_POINTS = 10_000


def with_seeds(
    experiment: Experiment, where: str, references: Sequence[str]
) -> Iterator[tuple[int | None, dict[str, str]]]:
    """Steps by reference (``base``, ``base/1``), for each seed of the members named without one."""
    varying = [
        ref
        for ref in references
        if "/" not in ref and ref in experiment.members and experiment.seeds_of(ref)
    ]
    seeds: Sequence[int | None] = experiment.seeds_of(varying[0]) if varying else (None,)
    for ref in varying:
        if set(experiment.seeds_of(ref)) != set(seeds):
            raise UserError(
                f"{where}: {varying[0]} and {ref} have different seeds, "
                f"{list(seeds)} and {list(experiment.seeds_of(ref))}: name one, such as {ref}/0"
            )
    for seed in seeds:
        members = [member_step(experiment, where, ref, seed) for ref in references]
        if len(set(members)) < len(members):
            raise UserError(f"{where}: a member is listed twice in {', '.join(references)}")
        yield seed, dict(zip(references, members, strict=True))


def member_step(experiment: Experiment, where: str, reference: str, seed: int | None) -> str:
    """The step that a reference (``base``, ``base/1``) names, for a seed."""
    name, slash, text = reference.partition("/")
    if name not in experiment.members:
        known = ", ".join(experiment.members)
        raise UserError(f"{where}: there is no member '{name}': use one of {known}")
    seeds = experiment.seeds_of(name)
    if slash:
        if not text.isdecimal() or int(text) not in seeds:
            raise UserError(f"{where}: {name} has no seed '{text}', only {list(seeds)}")
        return step_id("members", name, int(text))
    if seeds and seed not in seeds:
        raise UserError(f"{where}: name a seed of {name}, such as {name}/{seeds[0]}")
    return step_id("members", name, seed if seeds else None)


def step_id(*parts: str | int | None) -> str:
    """The parts of a name, without the empty ones."""
    return "/".join(str(part) for part in parts if part not in (None, ""))


def matching(only: Sequence[str], steps: Collection[str], lister: str) -> set[str]:
    """The steps that patterns with ``*``, or folders of steps, name."""
    found: set[str] = set()
    for pattern in only:
        folder = f"{pattern.rstrip('/')}/"
        named = {one for one in steps if fnmatch.fnmatch(one, pattern) or one.startswith(folder)}
        if not named:
            raise UserError(f"--only {pattern}: it matches no step; {lister} lists them")
        found |= named
    return found


def heads_of(name: str, merge: MergeSection, members: Sequence[str]) -> Sequence[str]:
    """The members that provide a head, each in turn."""
    if isinstance(merge.heads, str):
        return members if merge.heads == "all" else members[:1]
    for head in merge.heads:
        if head not in members:
            known = ", ".join(members)
            raise UserError(f"merges.{name}.heads: '{head}' is no member: use {known}")
    return merge.heads


def variants(name: str, merge: MergeSection, count: int) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """The rules of each selection and set of weights, by a name that is empty for a single one."""
    if merge.rules is not None:
        yield "", tuple(rule.rule() for rule in merge.rules)
        return
    weights: Sequence[Any] = [merge.weights]
    if isinstance(merge.weights, Grid):
        weights = [*_grid(name, merge.weights.steps, count)]
    elif merge.weights and isinstance(merge.weights[0], tuple):
        weights = merge.weights
    shared = {key: getattr(merge, key) for key in RuleRecipe.model_fields}
    for select, chosen in product(merge.select, weights):
        short = re.sub(r"[^A-Za-z0-9.+-]+", "-", select).strip("-.")[:60] or "selection"
        parts = [short] if len(merge.select) > 1 else []
        if len(weights) > 1 and chosen is not None:
            parts.append("w-" + "-".join(f"{value:g}" for value in chosen))
        changed = {**shared, "select": select, "weights": chosen}
        yield "/".join(parts), (RuleRecipe(**changed).rule(),)


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
