"""From an experiment to the graph of its steps.

A step's ``id`` is also the path of its result below the experiment's folder:

- ``members/base/0``: the member ``base`` of seed 0,
- ``merges/revt/0/head-base``: a merge of the members of seed 0 with the head of ``base``; with
  several selections or weights the variant comes before the head,
- ``recalibrated/...`` and ``refit/...``: the same names,
- ``results/paper/members/base/0``: the scores of a network by a protocol,
- ``selections/best/0``: what was chosen.

Ensembles are networks (``ensembles/...``) that are scored without a step of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.config.recipe import Recipe, load_recipe
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Kind, SplitSpec, splits_of
from revt_hf.experiments.change_steps import Recalibrate, Refit
from revt_hf.experiments.experiment_folder import Step
from revt_hf.experiments.experiment_recipe import (
    Experiment,
    Member,
    MergeSection,
    Selection,
    member_recipe,
)
from revt_hf.experiments.references import (
    heads_of,
    matching,
    member_step,
    step_id,
    variants,
    with_seeds,
)
from revt_hf.experiments.steps import Choose, Given, MergeStep, Network, Score, Train
from revt_hf.merging.registry import MergeSpec, check_spec

_MOST_STEPS = 20_000
# What is done to a merge, in this order: keys of its section, and kinds of the networks.
_CHANGES: dict[str, Kind] = {"recalibrate": "recalibrated", "refit": "refit"}


@dataclass
class Graph:
    """The steps of an experiment, and the networks that are scored."""

    experiment: Experiment
    # Of the splits to score on and of the images to recalibrate with.
    recipe: Recipe | None = None
    steps: dict[str, Step] = field(default_factory=dict)
    temporary: dict[str, MergeStep] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    splits: list[SplitSpec] = field(default_factory=list)

    @property
    def data_dirs(self) -> list[str | None]:
        recipes = [step.recipe for step in self.steps.values() if isinstance(step, Train)]
        return [one.data_dir for recipe in recipes for one in (*recipe.sources, *recipe.targets)]

    def add(self, step: Step) -> None:
        if len(self.steps) + len(self.temporary) >= _MOST_STEPS:
            raise UserError(f"the experiment has more than {_MOST_STEPS} steps: use fewer seeds")
        if step.id in self.steps or step.id in self.temporary:
            raise UserError(f"two steps of the experiment would be called {step.id}: rename one")
        self.steps[step.id] = step

    def chosen(self, only: Sequence[str], needs: bool) -> list[Step]:
        wanted = matching(only, self.steps, "--dry-run") if only else set(self.steps)
        if needs:
            for step in reversed(self.steps.values()):
                if step.id in wanted:
                    wanted.update(step.inputs)
        return [step for step in self.steps.values() if step.id in wanted]


def build_graph(experiment: Experiment) -> Graph:
    graph = Graph(experiment)
    _add_members(graph)
    graph.recipe = _evaluation_recipe(experiment)
    for name, section in experiment.merges.items():
        for seed, members in with_seeds(experiment, f"merges.{name}", section.members):
            _add_merges(graph, name, section, seed, members)
    _add_ensembles(graph)
    if graph.networks:
        _add_scores(graph)
    for name, selection in experiment.selections.items():
        _add_selections(graph, name, selection)
    return graph


def _add_members(graph: Graph) -> None:
    experiment = graph.experiment
    members = experiment.members
    waiting = list(members)
    while waiting:
        ready = [name for name in waiting if not _used_by(members[name]).intersection(waiting)]
        if not ready:
            raise UserError(f"members.{waiting[0]}: the members start from each other")
        for name in ready:
            waiting.remove(name)
            for seed in experiment.seeds_of(name) or (None,):
                graph.add(_member(graph, name, seed))
    inits = {member.init for member in members.values()}
    for name, member in members.items():
        kind: Kind = "init" if name in inits else "member"
        for seed in experiment.seeds_of(name) or (None,):
            one = step_id("members", name, seed)
            if member.evaluate:
                title = member.title or name
                graph.networks[one] = Network(one, title, kind, seed, (one,), paper=member.paper)


def _used_by(member: Member) -> set[str | None]:
    return {name and name.split("/")[0] for name in (member.init, member.of)}


def _member(graph: Graph, name: str, seed: int | None) -> Step:
    member, own_id = graph.experiment.members[name], step_id("members", name, seed)
    if member.checkpoint is not None:
        return Given(own_id, (), member.checkpoint.replace("{seed}", str(seed)))
    if member.of is not None:
        where, kind = f"members.{name}.of", str(member.average)
        training = member_step(graph.experiment, where, member.of, seed)
        step = graph.steps[training]
        if not isinstance(step, Train) or getattr(step.recipe.train, kind) is None:
            raise UserError(
                f"{where}: '{member.of}' keeps no such average; its recipe needs train.{kind}"
            )
        return Given(own_id, (training,), kind)
    recipe = member_recipe(graph.experiment, name, seed)
    if member.init is None:
        return Train(own_id, (), recipe)
    where = f"members.{name}.init"
    init = member_step(graph.experiment, where, member.init, seed)
    step = graph.steps[init]
    if isinstance(step, Given) and step.inputs:
        raise UserError(f"{where}: '{member.init}' is an average; use a training or a checkpoint")
    # Its folder is known when the step runs.
    model = recipe.model.model_copy(update={"init": None})
    return Train(own_id, (init,), recipe.model_copy(update={"model": model}))


def _evaluation_recipe(experiment: Experiment) -> Recipe | None:
    if experiment.evaluate.recipe is not None:
        return load_recipe(experiment.evaluate.recipe)
    inits = {member.init for member in experiment.members.values()}
    for name, member in experiment.members.items():
        if member.recipe is not None and name not in inits:
            return member_recipe(experiment, name, None)
    return None


def _add_merges(
    graph: Graph, name: str, section: MergeSection, seed: int | None, members: dict[str, str]
) -> None:
    base, steps = section.base, tuple(members.values())
    if base is not None and base.split("/")[0] in graph.experiment.members:
        base = member_step(graph.experiment, f"merges.{name}.base", base, seed)
    inputs = (*steps, base) if base in graph.steps else steps
    heads = heads_of(name, section, list(members))
    for variant, rules in variants(name, section, len(members)):
        try:
            # Hours of training come before the merge: refuse at once what cannot work.
            check_spec(MergeSpec(steps, rules, 1, base))
        except UserError as error:
            raise UserError(f"merges.{name}: {error}") from error
        group = " ".join(part for part in (section.title or name, variant) if part)
        for head in heads:
            label, number = head.replace("/", "-"), list(members).index(head) + 1
            merge_id = step_id("merges", name, seed, variant, f"head-{label}")
            merge = MergeStep(merge_id, inputs, steps, rules, number, base)
            graph.add(merge)
            if not section.keep:
                del graph.steps[merge_id]
                graph.temporary[merge_id] = merge
            made: list[tuple[str, Kind, str]] = [(merge_id, "merge", group)]
            made += _add_changes(graph, name, section, merge_id, group, seed)
            for made_id, kind, title in made if section.evaluate else ():
                paper = section.paper if kind == "merge" else None
                graph.networks[made_id] = Network(
                    made_id, title, kind, seed, (made_id,), label, paper
                )


def _add_changes(
    graph: Graph, name: str, section: MergeSection, merge: str, group: str, seed: int | None
) -> list[tuple[str, Kind, str]]:
    """The merge recalibrated, and refit after that; each as a network: step, kind, row."""
    made: list[tuple[str, Kind, str]] = []
    last = merge
    for key, kind in _CHANGES.items():
        count = getattr(section, key)
        if count is None:
            continue
        if graph.recipe is None:
            raise UserError(f"merges.{name}.{key} needs evaluate.recipe")
        own_id, recipe = merge.replace("merges", kind, 1), graph.recipe
        if kind == "recalibrated":
            graph.add(Recalibrate(own_id, (last,), recipe.sources, count))
        else:
            seeded = {"seed": recipe.train.seed if seed is None else seed}
            train = recipe.train.model_copy(update=seeded)
            graph.add(Refit(own_id, (last,), recipe.model_copy(update={"train": train}), count))
        last, group = own_id, f"{group}, {kind}"
        made.append((own_id, kind, group))
    return made


def _add_ensembles(graph: Graph) -> None:
    for name, ensemble in graph.experiment.ensembles.items():
        found = with_seeds(graph.experiment, f"ensembles.{name}", ensemble.members)
        for (seed, members), combine in product(found, ensemble.combine):
            title, steps = f"{ensemble.title or name}, {combine}", tuple(members.values())
            heads = list(members) if combine == "features" else [None]
            for number, head in enumerate(heads):
                label = head.replace("/", "-") if head else None
                own_id = step_id("ensembles", name, seed, combine, label and f"head-{label}")
                # The first part provides the head.
                parts = (*steps[number:], *steps[:number])
                graph.networks[own_id] = Network(
                    own_id, title, "ensemble", seed, parts, label, ensemble.paper, combine
                )


def _add_scores(graph: Graph) -> None:
    evaluate, recipe = graph.experiment.evaluate, graph.recipe
    if recipe is None:
        raise UserError("evaluate.recipe: say what to score on; no member has a recipe")
    if evaluate.targets is not None:
        recipe = recipe.model_copy(update={"targets": evaluate.targets})
    graph.splits = [split for split in splits_of(recipe) if evaluate.source or not split.is_source]
    if not graph.splits:
        raise UserError("evaluate: there is nothing to score on: name targets, or source: true")
    splits, known = tuple(graph.splits), {**PROTOCOLS, "recipe": recipe.evaluation}
    for chosen in evaluate.protocols:
        if isinstance(chosen, str):
            name, protocol = chosen, known[chosen]
        else:
            name = chosen.name
            protocol = Protocol.model_validate(chosen.model_dump(exclude={"name"}))
        graph.protocols[name] = protocol
        for network in graph.networks.values():
            merge = graph.temporary.get(network.id)
            inputs = merge.inputs if merge else network.parts
            score_id = f"results/{name}/{network.id}"
            graph.add(Score(score_id, inputs, network, name, protocol, splits, evaluate, merge))


def _add_selections(graph: Graph, name: str, selection: Selection) -> None:
    where = f"selections.{name}"
    on = _selection_labels(graph, where, selection)
    found = [
        network
        for network in graph.networks.values()
        if network.kind != "selection" and _name_of(network.id) in selection.among
    ]
    for text in selection.among:
        if text not in {_name_of(network.id) for network in found}:
            raise UserError(f"{where}.among: '{text}' is no member, merge or ensemble")
    on_target = any(split.label in on for split in graph.splits if not split.is_source)
    protocols, title = tuple(graph.protocols), selection.title or name
    for seed in dict.fromkeys(network.seed for network in found):
        among = tuple(network.id for network in found if network.seed == seed)
        own_id = step_id("selections", name, seed)
        inputs = tuple(f"results/{protocol}/{one}" for protocol in protocols for one in among)
        network = Network(own_id, title, "selection", seed, (own_id,), paper=selection.paper)
        graph.add(Choose(own_id, inputs, network, among, on, on_target, protocols))
        graph.networks[own_id] = network


def _selection_labels(graph: Graph, where: str, selection: Selection) -> tuple[str, ...]:
    labels = {split.label: split.is_source for split in graph.splits}
    sources = [label for label, is_source in labels.items() if is_source]
    on = [label for text in selection.on for label in (sources if text == "source" else [text])]
    for label in on:
        if label not in labels:
            raise UserError(f"{where}.on: '{label}' is not scored: use source, {', '.join(labels)}")
        if not labels[label] and not graph.experiment.allow_target_selection:
            raise UserError(
                f"{where}.on: {label} is a target, and targets are never selected on: use source, "
                "or set allow_target_selection: true, which every table will mark"
            )
    if not on:
        raise UserError(f"{where}.on: no source-val is scored: set evaluate.source: true")
    return tuple(dict.fromkeys(on))


def _name_of(network: str) -> str:
    """``merges/revt/0/head-base`` -> ``revt``."""
    return network.split("/")[1]
