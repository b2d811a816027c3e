"""The graph of an experiment's steps, and how members and merges are named in it.

A step's ``id`` is also the path of its result below the experiment's folder:

- ``members/base/0``: the member ``base`` of seed 0,
- ``merges/revt/0/head-base``: a merge of the members of seed 0 with the head of ``base``; with
  several selections or weights the variant comes before the head,
- ``recalibrated/...``: the same names,
- ``results/paper/members/base/0``: the scores of a network by a protocol,
- ``selections/best/0``: what was chosen.

Ensembles are networks (``ensembles/...``) that are scored without a step of their own.
"""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, product
from math import comb
from typing import Any

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import SplitSpec
from revt_hf.experiments.experiment_folder import Step
from revt_hf.experiments.experiment_recipe import Experiment, Grid, MergeSection
from revt_hf.experiments.model_steps import MergeStep, Train
from revt_hf.experiments.score_steps import Network
from revt_hf.merging.registry import Rule

_MOST_STEPS = 20_000


@dataclass
class Graph:
    """The steps of an experiment, and the networks that are scored."""

    experiment: Experiment
    steps: dict[str, Step] = field(default_factory=dict)
    temporary: dict[str, MergeStep] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    splits: list[SplitSpec] = field(default_factory=list)

    @property
    def data_dirs(self) -> list[str | None]:
        """The folders of data that its trainings read or are compared on."""
        recipes = [step.recipe for step in self.steps.values() if isinstance(step, Train)]
        specs = [spec for recipe in recipes for spec in (*recipe.sources, *recipe.targets)]
        return [spec.data_dir for spec in specs]

    def add(self, step: Step) -> None:
        """Add a step after its inputs."""
        if len(self.steps) + len(self.temporary) >= _MOST_STEPS:
            raise UserError(f"the experiment has more than {_MOST_STEPS} steps: use fewer seeds")
        if step.id in self.steps or step.id in self.temporary:
            raise UserError(f"two steps of the experiment would be called {step.id}: rename one")
        self.steps[step.id] = step

    def chosen(self, only: Sequence[str], needs: bool) -> list[Step]:
        """The steps to run, each after its inputs."""
        wanted: set[str] = set() if only else set(self.steps)
        for pattern in only:
            folder = f"{pattern.rstrip('/')}/"
            found = [
                one for one in self.steps if fnmatch.fnmatch(one, pattern) or one.startswith(folder)
            ]
            if not found:
                raise UserError(f"--only {pattern}: no step is called so; --dry-run lists them")
            wanted.update(found)
        if needs:
            for step in reversed(self.steps.values()):
                if step.id in wanted:
                    wanted.update(step.inputs)
        return [step for step in self.steps.values() if step.id in wanted]


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


_MOST_POINTS = 10_000


def head_numbers(name: str, merge: MergeSection, members: Sequence[str]) -> list[int]:
    """Numbers, from 1, of the members that provide the head."""
    if merge.heads == "first":
        return [1]
    if merge.heads == "all":
        return list(range(1, len(members) + 1))
    for head in merge.heads:
        if head not in members:
            known = ", ".join(members)
            raise UserError(f"merges.{name}.heads: '{head}' is no member: use {known}")
    return [members.index(head) + 1 for head in merge.heads]


def variants(name: str, merge: MergeSection, count: int) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """The rules of each selection and set of weights, by a name that is empty for a single one."""
    if merge.rules is not None:
        yield "", tuple(Rule(r.select, r.method, r.weights, r.parameters) for r in merge.rules)
        return
    weights: Sequence[Any] = [merge.weights]
    if isinstance(merge.weights, Grid):
        weights = [*_grid(name, merge.weights.steps, count)]
    elif merge.weights and isinstance(merge.weights[0], tuple):
        weights = merge.weights
    for select, chosen in product(merge.select, weights):
        short = re.sub(r"[^A-Za-z0-9.+-]+", "-", select).strip("-.")[:60] or "selection"
        parts = [short] if len(merge.select) > 1 else []
        if len(weights) > 1 and chosen is not None:
            parts.append("w-" + "-".join(f"{value:g}" for value in chosen))
        yield "/".join(parts), (Rule(select, merge.method, chosen, merge.parameters),)


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
