"""The steps of an experiment's merges, and the networks that come of them."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, product
from math import comb

from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Kind
from revt_hf.experiments.graph import Graph, MergeWork, Network, Recalibrate, Step
from revt_hf.experiments.named_members import NamedMember, one_member, seed_text
from revt_hf.experiments.recipe import Experiment, Grid, Merge
from revt_hf.merging.merge_spec import MergeSpec, Rule, check_spec

_MOST_POINTS = 10_000


def add_merges(
    graph: Graph,
    name: str,
    merge: Merge,
    seed: int | None,
    members: Sequence[NamedMember],
    recipe: Recipe | None,
) -> None:
    """Add the merges of some members: one for each selection, set of weights and head.

    Args:
        graph: gets the steps, and the networks to score.
        name: of the merge in the experiment.
        merge: what is asked for.
        seed: the members' seed, if they have one in common.
        members: in order.
        recipe: says on which sources merges are recalibrated.

    Raises:
        UserError: a merge that cannot work, or two steps of one name.
    """
    heads = _heads(name, merge, members)
    base = _base(graph.experiment, name, merge, seed)
    needs = tuple(member.step for member in members) + ((base,) if base in graph.steps else ())
    for variant, rules in _variants(name, merge, len(members)):
        _check_merge(name, MergeSpec(tuple(member.step for member in members), rules, 1, base))
        for head in heads:
            label = members[head - 1].name.replace("/", "-")
            place = "/".join(part for part in (name, seed_text(seed), variant) if part)
            place = f"{place}/head-{label}"
            group = " ".join(part for part in (merge.title or name, variant) if part)
            step = Step(
                f"merges/{place}",
                MergeWork(tuple(member.step for member in members), rules, head, base),
                needs,
            )
            graph.add(step)
            if not merge.keep:
                graph.passing[step.id] = graph.steps.pop(step.id)
            made: list[tuple[str, Kind, str]] = [(step.id, "merge", group)]
            if merge.recalibrate is not None:
                if recipe is None:
                    raise UserError(f"merges.{name}.recalibrate needs evaluate.recipe")
                again = Step(
                    f"recalibrated/{place}",
                    Recalibrate(step.id, recipe.sources, merge.recalibrate),
                    (step.id,),
                )
                graph.add(again)
                made.append((again.id, "recalibrated", f"{group}, recalibrated"))
            for step_id, kind, title in made if merge.evaluate else ():
                paper = merge.paper if kind == "merge" else None
                graph.networks[step_id] = Network(
                    step_id, title, kind, seed, (step_id,), label, paper
                )


def _check_merge(name: str, spec: MergeSpec) -> None:
    """Hours of training come before the merge: what cannot work is refused at once."""
    try:
        check_spec(spec)
    except UserError as error:
        raise UserError(f"merges.{name}: {error}") from error


def _heads(name: str, merge: Merge, members: Sequence[NamedMember]) -> list[int]:
    """Numbers, from 1, of the members that give the head."""
    if merge.heads == "first":
        return [1]
    if merge.heads == "all":
        return list(range(1, len(members) + 1))
    names = [member.name for member in members]
    for head in merge.heads:
        if head not in names:
            raise UserError(f"merges.{name}.heads: '{head}' is no member: use {', '.join(names)}")
    return [names.index(head) + 1 for head in merge.heads]


def _base(experiment: Experiment, name: str, merge: Merge, seed: int | None) -> str | None:
    """The step of a member, else a folder or Hub id."""
    if merge.base is None or merge.base.split("/")[0] not in experiment.members:
        return merge.base
    return one_member(experiment, f"merges.{name}.base", merge.base, seed).step


def _variants(name: str, merge: Merge, count: int) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """A name, empty if there is only one, and the rules, of each selection and set of weights."""
    if merge.rules is not None:
        yield "", tuple(Rule(r.select, r.method, r.weights, r.parameters) for r in merge.rules)
        return
    selections, weights = merge.selections(), _weights(name, merge, count)
    for select, chosen in product(selections, weights):
        parts = [_slug(select)] if len(selections) > 1 else []
        if len(weights) > 1 and chosen is not None:
            parts.append("w-" + "-".join(f"{value:g}" for value in chosen))
        yield "/".join(parts), (Rule(select, merge.method, chosen, merge.parameters),)


def _grid(name: str, steps: int, count: int) -> list[tuple[float, ...] | None]:
    """All weights of so many members that are multiples of 1/``steps`` and sum to 1."""
    points = comb(steps + count - 1, count - 1)
    if points > _MOST_POINTS:
        raise UserError(
            f"merges.{name}.weights: {steps} steps of {count} members are {points} merges, more "
            f"than {_MOST_POINTS}"
        )
    rows: list[tuple[float, ...] | None] = []
    # Bars between steps that lie in a row say how many go to each member.
    for bars in combinations(range(steps + count - 1), count - 1):
        edges = (-1, *bars, steps + count - 1)
        rows.append(tuple((high - low - 1) / steps for low, high in pairwise(edges)))
    return rows


def _weights(name: str, merge: Merge, count: int) -> list[tuple[float, ...] | None]:
    if isinstance(merge.weights, Grid):
        return _grid(name, merge.weights.steps, count)
    if merge.weights and isinstance(merge.weights[0], tuple):
        return [row for row in merge.weights if isinstance(row, tuple)]
    return [merge.weights]  # type: ignore[list-item]


def _slug(text: str) -> str:
    """A selection as a file name."""
    short = re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.")
    return short[:60] or "selection"
