"""From an experiment to its steps: what is trained, merged, recalibrated, scored and chosen.

A step's ``id`` is also where its result lies, below the experiment's folder:

- ``members/base/0``: the member ``base`` trained with seed 0,
- ``merges/revt/0/head-base``: a merge of the members of seed 0 with the head of ``base``; of
  several selections or weights the variant stands before the head,
- ``recalibrated/...``: the same names,
- ``results/published/members/base/0.json``: a network scored by a protocol,
- ``selections/best/0.json``: what was chosen.

Ensembles have no step: they are networks (``ensembles/...``) that are scored.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from pydantic import BaseModel

from revt_hf.errors import UserError
from revt_hf.evaluation.splits import SplitSpec, splits_of
from revt_hf.experiments.recipe import (
    Experiment,
    Grid,
    Member,
    Merge,
    NamedProtocol,
    PaperRow,
    member_recipe,
)
from revt_hf.experiments.recipe import Selection as SelectionRecipe
from revt_hf.merging.plan import MergeSpec, Rule, check_spec
from revt_hf.recipe import PROTOCOLS, Evaluation, Recipe, Source, load_recipe

Kind = Literal["start", "member", "merge", "recalibrated", "ensemble", "selection"]


@dataclass(frozen=True)
class Train:
    """Train a member; ``start`` is the step whose network it starts from."""

    recipe: Recipe
    start: str | None


@dataclass(frozen=True)
class Given:
    """A checkpoint that exists: a folder or Hub id."""

    checkpoint: str


@dataclass(frozen=True)
class Average:
    """What a training (a step) keeps besides its last weights; nothing is left to do."""

    training: str
    kind: str


@dataclass(frozen=True)
class MergeWork:
    """Merge ``members`` (steps); all that no rule selects comes from number ``head`` (from 1)."""

    members: tuple[str, ...]
    rules: tuple[Rule, ...]
    head: int
    base: str | None


@dataclass(frozen=True)
class Recalibrate:
    """Re-estimate the head's BatchNorm statistics of a merge on source pictures."""

    model: str
    sources: tuple[Source, ...]
    pictures: int


@dataclass(frozen=True)
class Score:
    """Score a network on all splits by one protocol."""

    network: str
    protocol: str


@dataclass(frozen=True)
class Choose:
    """Take the best of ``candidates`` (networks) by the mean mIoU on ``on`` (labels)."""

    candidates: tuple[str, ...]
    on: tuple[str, ...]


Work = Train | Given | Average | MergeWork | Recalibrate | Score | Choose


@dataclass(frozen=True)
class Step:
    """One step: ``needs`` are steps that must have finished."""

    id: str
    work: Work
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """What is scored: one step's result, or with ``combine`` several that answer together.

    ``group`` is its row of the table; ``parts`` are steps.
    """

    id: str
    group: str
    kind: Kind
    seed: int | None
    parts: tuple[str, ...]
    head: str | None = None
    paper: PaperRow | None = None
    combine: str | None = None


@dataclass
class Graph:
    """All steps of an experiment, and what they are scored as.

    Attributes:
        experiment: where they come from.
        steps: each after those that it needs.
        passing: merges that are made when they are scored, and not kept.
        networks: what is scored, by name.
        protocols: by name.
        splits: what is scored on.
    """

    experiment: Experiment
    steps: dict[str, Step] = field(default_factory=dict)
    passing: dict[str, Step] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    protocols: dict[str, Evaluation] = field(default_factory=dict)
    splits: list[SplitSpec] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Add a step.

        Raises:
            UserError: there is one of that name.
        """
        if step.id in self.steps or step.id in self.passing:
            raise UserError(f"two steps of the experiment would be called {step.id}: rename one")
        self.steps[step.id] = step

    def of_kind(self, *kinds: type) -> list[Step]:
        """The steps that do such work, in order."""
        return [step for step in self.steps.values() if isinstance(step.work, kinds)]


@dataclass(frozen=True)
class _Member:
    """A member for one seed, as a merge or ensemble names it."""

    name: str
    step: str


def build_graph(experiment: Experiment) -> Graph:
    """All steps of an experiment.

    Raises:
        UserError: a name that is not there, a recipe that cannot be read, seeds that do not fit,
            or a selection on a target that the experiment does not allow.
    """
    graph = Graph(experiment)
    _add_members(graph)
    recipe = _evaluation_recipe(experiment)
    for name, merge in experiment.merges.items():
        for seed, members in _with_seeds(experiment, f"merges.{name}", merge.members):
            _add_merges(graph, name, merge, seed, members, recipe)
    _add_ensembles(graph)
    if graph.networks:
        _add_scores(graph, recipe)
    for name, selection in experiment.selections.items():
        _add_selections(graph, name, selection)
    return graph


def _add_members(graph: Graph) -> None:
    experiment = graph.experiment
    starts = {member.start for member in experiment.members.values()}
    waiting = list(experiment.members)
    while waiting:
        ready = [n for n in waiting if not _needed(experiment.members[n]).intersection(waiting)]
        if not ready:
            raise UserError(f"members.{waiting[0]}: the members start from each other")
        for name in ready:
            _add_member(graph, name, "start" if name in starts else "member")
            waiting.remove(name)
    # As written in the file.
    order = {name: number for number, name in enumerate(experiment.members)}
    graph.networks = dict(
        sorted(graph.networks.items(), key=lambda item: order[item[0].split("/")[1]])
    )


def _needed(member: Member) -> set[str | None]:
    """Names of members without their seed."""
    return {name and name.split("/")[0] for name in (member.start, member.of)}


def _average(graph: Graph, name: str, training: str) -> Average:
    member, work = graph.experiment.members[name], graph.steps[training].work
    kind = str(member.average)
    if not isinstance(work, Train) or getattr(work.recipe.train, kind) is None:
        raise UserError(
            f"members.{name}.of: '{member.of}' keeps no such average; its recipe needs train.{kind}"
        )
    return Average(training, kind)


def _add_member(graph: Graph, name: str, kind: Kind) -> None:
    experiment = graph.experiment
    member = experiment.members[name]
    for seed in experiment.seeds_of(name) or (None,):
        step_id = _member_step(name, seed)
        if member.checkpoint is not None:
            where = member.checkpoint.replace("{seed}", str(seed))
            graph.add(Step(step_id, Given(where)))
        elif member.of is not None:
            training = _one_member(experiment, f"members.{name}.of", member.of, seed).step
            graph.add(Step(step_id, _average(graph, name, training), (training,)))
        else:
            recipe = member_recipe(experiment, name, seed)
            start = None
            if member.start is not None:
                start = _one_member(experiment, f"members.{name}.start", member.start, seed).step
                if isinstance(graph.steps[start].work, Average):
                    raise UserError(
                        f"members.{name}.start: '{member.start}' is an average; use a training or "
                        "a checkpoint"
                    )
                # Its folder is known when the step runs.
                model = recipe.model.model_copy(update={"start": None})
                recipe = recipe.model_copy(update={"model": model})
            needs = (start,) if start else ()
            graph.add(Step(step_id, Train(recipe, start), needs))
        if member.evaluate:
            group = member.title or name
            graph.networks[step_id] = Network(
                step_id, group, kind, seed, (step_id,), paper=member.paper
            )


def _add_merges(
    graph: Graph,
    name: str,
    merge: Merge,
    seed: int | None,
    members: Sequence[_Member],
    recipe: Recipe | None,
) -> None:
    heads = _heads(name, merge, members)
    base = _base(graph.experiment, name, merge, seed)
    needs = tuple(member.step for member in members) + ((base,) if base in graph.steps else ())
    for variant, rules in _variants(name, merge, len(members)):
        _check_merge(name, MergeSpec(tuple(member.step for member in members), rules, 1, base))
        for head in heads:
            label = members[head - 1].name.replace("/", "-")
            place = "/".join(part for part in (name, _text(seed), variant) if part)
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


def _heads(name: str, merge: Merge, members: Sequence[_Member]) -> list[int]:
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
    return _one_member(experiment, f"merges.{name}.base", merge.base, seed).step


def _variants(name: str, merge: Merge, count: int) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """A name, empty if there is only one, and the rules, of each selection and set of weights."""
    if merge.rules is not None:
        yield "", tuple(Rule(r.select, r.method, r.weights, r.parameters) for r in merge.rules)
        return
    selections, weights = merge.selections(), _weights(merge, count)
    for select, chosen in product(selections, weights):
        parts = [_slug(select)] if len(selections) > 1 else []
        if len(weights) > 1 and chosen is not None:
            parts.append("w-" + "-".join(f"{value:g}" for value in chosen))
        yield "/".join(parts), (Rule(select, merge.method, chosen, merge.parameters),)


def _weights(merge: Merge, count: int) -> list[tuple[float, ...] | None]:
    if isinstance(merge.weights, Grid):
        steps = merge.weights.steps
        return [
            tuple(number / steps for number in numbers)
            for numbers in product(range(steps + 1), repeat=count)
            if sum(numbers) == steps
        ]
    if merge.weights and isinstance(merge.weights[0], tuple):
        return [row for row in merge.weights if isinstance(row, tuple)]
    return [merge.weights]  # type: ignore[list-item]


def _add_ensembles(graph: Graph) -> None:
    for name, ensemble in graph.experiment.ensembles.items():
        for seed, members in _with_seeds(graph.experiment, f"ensembles.{name}", ensemble.members):
            for combine in ensemble.combine:
                place = "/".join(part for part in ("ensembles", name, _text(seed)) if part)
                title = f"{ensemble.title or name}, {combine}"
                heads = [member.name for member in members] if combine == "features" else [None]
                for number, head in enumerate(heads):
                    label = head.replace("/", "-") if head else None
                    network_id = f"{place}/{combine}{f'/head-{label}' if label else ''}"
                    # The first part gives the head.
                    parts = [*members[number:], *members[:number]]
                    graph.networks[network_id] = Network(
                        network_id,
                        title,
                        "ensemble",
                        seed,
                        tuple(part.step for part in parts),
                        label,
                        ensemble.paper,
                        combine,
                    )


def _add_scores(graph: Graph, recipe: Recipe | None) -> None:
    evaluate = graph.experiment.evaluate
    if recipe is None:
        raise UserError("evaluate.recipe: say what to score on; no member has a recipe")
    if evaluate.targets is not None:
        recipe = recipe.model_copy(update={"targets": evaluate.targets})
    graph.splits = [split for split in splits_of(recipe) if evaluate.source or not split.is_source]
    if not graph.splits:
        raise UserError("evaluate: there is nothing to score on: name targets, or source: true")
    for protocol in evaluate.protocols:
        if isinstance(protocol, NamedProtocol):
            values = protocol.model_dump(exclude={"name"})
            graph.protocols[protocol.name] = Evaluation.model_validate(values)
        else:
            chosen = recipe.evaluation if protocol == "recipe" else PROTOCOLS[protocol]
            graph.protocols[protocol] = chosen
    for name in graph.protocols:
        for network in graph.networks.values():
            passing = graph.passing.get(network.id)
            needs = passing.needs if passing else network.parts
            graph.add(Step(f"results/{name}/{network.id}", Score(network.id, name), needs))


def _add_selections(graph: Graph, name: str, selection: SelectionRecipe) -> None:
    experiment = graph.experiment
    labels = {split.label: split.is_source for split in graph.splits}
    sources = [label for label, is_source in labels.items() if is_source]
    on = [label for text in selection.on for label in (sources if text == "source" else [text])]
    where = f"selections.{name}"
    for label in on:
        if label not in labels:
            raise UserError(f"{where}.on: '{label}' is not scored: use source, {', '.join(labels)}")
        if not labels[label] and not experiment.allow_target_selection:
            raise UserError(
                f"{where}.on: {label} is a target, and targets are never selected on: use source, "
                "or say allow_target_selection: true, which every table will mark"
            )
    if not on:
        raise UserError(f"{where}.on: no source-val is scored: set evaluate.source: true")
    found = [
        network
        for network in graph.networks.values()
        if network.kind != "selection" and _named(network.id) in selection.among
    ]
    for text in selection.among:
        if text not in {_named(network.id) for network in found}:
            raise UserError(f"{where}.among: '{text}' is no member, merge or ensemble")
    for seed in dict.fromkeys(network.seed for network in found):
        candidates = tuple(network.id for network in found if network.seed == seed)
        place = "/".join(part for part in ("selections", name, _text(seed)) if part)
        needs = tuple(f"results/{p}/{c}" for p in graph.protocols for c in candidates)
        graph.add(Step(place, Choose(candidates, tuple(dict.fromkeys(on))), needs))
        graph.networks[place] = Network(
            place, selection.title or name, "selection", seed, (place,), paper=selection.paper
        )


def _named(network: str) -> str:
    """``merges/revt/0/head-base`` -> ``revt``."""
    return network.split("/")[1]


def _evaluation_recipe(experiment: Experiment) -> Recipe | None:
    """What ``evaluate`` names, else the first recipe of a member that is not only a start."""
    if experiment.evaluate.recipe is not None:
        return load_recipe(experiment.evaluate.recipe)
    starts = {member.start for member in experiment.members.values()}
    trained = [n for n, member in experiment.members.items() if member.recipe is not None]
    chosen = next((name for name in trained if name not in starts), None)
    return member_recipe(experiment, chosen, None) if chosen else None


def _with_seeds(
    experiment: Experiment, where: str, references: Sequence[str]
) -> Iterator[tuple[int | None, list[_Member]]]:
    """The members for each seed that they are named without; once if all are named with one."""
    free = [ref for ref in references if "/" not in ref and ref in experiment.members]
    seeds: Sequence[int | None] = (None,)
    varying = [ref for ref in free if experiment.seeds_of(ref)]
    if varying:
        seeds = experiment.seeds_of(varying[0])
        for ref in varying:
            if set(experiment.seeds_of(ref)) != set(seeds):
                raise UserError(
                    f"{where}: {varying[0]} and {ref} have other seeds, "
                    f"{list(seeds)} and {list(experiment.seeds_of(ref))}: name one, as {ref}/0"
                )
    for seed in seeds:
        members = [_one_member(experiment, where, ref, seed) for ref in references]
        if len({member.step for member in members}) < len(members):
            raise UserError(f"{where}: a member stands twice in {', '.join(references)}")
        yield seed, members


def _one_member(experiment: Experiment, where: str, reference: str, seed: int | None) -> _Member:
    name, slash, text = reference.partition("/")
    if name not in experiment.members:
        known = ", ".join(experiment.members)
        raise UserError(f"{where}: there is no member '{name}': use one of {known}")
    seeds = experiment.seeds_of(name)
    if slash:
        if not text.isdecimal() or int(text) not in seeds:
            raise UserError(f"{where}: {name} has no seed '{text}', only {list(seeds)}")
        return _Member(reference, _member_step(name, int(text)))
    if not seeds:
        return _Member(name, _member_step(name, None))
    if seed not in seeds:
        raise UserError(f"{where}: say which seed of {name}: {name}/{seeds[0]}")
    return _Member(name, _member_step(name, seed))


def _member_step(name: str, seed: int | None) -> str:
    return "/".join(part for part in ("members", name, _text(seed)) if part)


def _text(seed: int | None) -> str:
    return "" if seed is None else str(seed)


def _slug(text: str) -> str:
    """A selection as a file name."""
    short = re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.")
    return short[:60] or "selection"


def settings_of(step: Step, graph: Graph) -> Mapping[str, Any]:
    """All that decides a step's result, but for what it needs, as JSON values.

    Values that are the defaults are left out: a new field changes nothing that has been done.
    """
    work = step.work
    if isinstance(work, Train):
        return {"recipe": _dumped(work.recipe)}
    if isinstance(work, Given):
        return {"checkpoint": work.checkpoint}
    if isinstance(work, Average):
        return {"average": work.kind}
    if isinstance(work, MergeWork):
        rules = [
            [rule.select, rule.method, rule.weights, dict(rule.parameters)] for rule in work.rules
        ]
        return {"rules": rules, "head": work.head, "base": work.base}
    if isinstance(work, Recalibrate):
        return {"sources": [_dumped(one) for one in work.sources], "pictures": work.pictures}
    if isinstance(work, Score):
        passing = graph.passing.get(work.network)
        return {
            "merge": settings_of(passing, graph) if passing else None,
            "protocol": _dumped(graph.protocols[work.protocol]),
            "splits": [[_dumped(one.spec), one.split, one.is_source] for one in graph.splits],
            "combine": graph.networks[work.network].combine,
            "cost": graph.experiment.evaluate.cost,
        }
    return {"candidates": work.candidates, "on": work.on}


def _dumped(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_defaults=True)
