"""From an experiment to its steps: what is trained, merged, recalibrated, scored and chosen.

A step's ``id`` is also where its result lies, below the experiment's folder:

- ``members/base/0``: the member ``base`` trained with seed 0,
- ``merges/revt/0/head-base``: a merge of the members of seed 0 with the head of ``base``; of
  several selections or weights the variant stands before the head,
- ``recalibrated/...``: the same names,
- ``results/paper/members/base/0.json``: a network scored by a protocol,
- ``selections/best/0.json``: what was chosen.

Ensembles have no step: they are networks (``ensembles/...``) that are scored.
"""

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.config.recipe import Recipe, load_recipe
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Kind
from revt_hf.evaluation.splits import splits_of
from revt_hf.experiments.graph import (
    Average,
    Choose,
    Given,
    Graph,
    Network,
    Score,
    Step,
    Train,
)
from revt_hf.experiments.merge_steps import add_merges
from revt_hf.experiments.named_members import member_step, one_member, seed_text, with_seeds
from revt_hf.experiments.recipe import (
    Experiment,
    Member,
    NamedProtocol,
    member_recipe,
)
from revt_hf.experiments.recipe import Selection as SelectionRecipe


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
        for seed, members in with_seeds(experiment, f"merges.{name}", merge.members):
            add_merges(graph, name, merge, seed, members, recipe)
    _add_ensembles(graph)
    if graph.networks:
        _add_scores(graph, recipe)
    for name, selection in experiment.selections.items():
        _add_selections(graph, name, selection)
    return graph


def _add_members(graph: Graph) -> None:
    experiment = graph.experiment
    starts = {member.init for member in experiment.members.values()}
    waiting = list(experiment.members)
    while waiting:
        ready = [n for n in waiting if not _needed(experiment.members[n]).intersection(waiting)]
        if not ready:
            raise UserError(f"members.{waiting[0]}: the members start from each other")
        for name in ready:
            _add_member(graph, name, "init" if name in starts else "member")
            waiting.remove(name)
    # As written in the file.
    order = {name: number for number, name in enumerate(experiment.members)}
    graph.networks = dict(
        sorted(graph.networks.items(), key=lambda item: order[item[0].split("/")[1]])
    )


def _needed(member: Member) -> set[str | None]:
    """Names of members without their seed."""
    return {name and name.split("/")[0] for name in (member.init, member.of)}


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
        step_id = member_step(name, seed)
        if member.checkpoint is not None:
            where = member.checkpoint.replace("{seed}", str(seed))
            graph.add(Step(step_id, Given(where)))
        elif member.of is not None:
            training = one_member(experiment, f"members.{name}.of", member.of, seed).step
            graph.add(Step(step_id, _average(graph, name, training), (training,)))
        else:
            recipe = member_recipe(experiment, name, seed)
            start = None
            if member.init is not None:
                start = one_member(experiment, f"members.{name}.init", member.init, seed).step
                if isinstance(graph.steps[start].work, Average):
                    raise UserError(
                        f"members.{name}.init: '{member.init}' is an average; use a training or "
                        "a checkpoint"
                    )
                # Its folder is known when the step runs.
                model = recipe.model.model_copy(update={"init": None})
                recipe = recipe.model_copy(update={"model": model})
            needs = (start,) if start else ()
            graph.add(Step(step_id, Train(recipe, start), needs))
        if member.evaluate:
            group = member.title or name
            graph.networks[step_id] = Network(
                step_id, group, kind, seed, (step_id,), paper=member.paper
            )


def _add_ensembles(graph: Graph) -> None:
    for name, ensemble in graph.experiment.ensembles.items():
        for seed, members in with_seeds(graph.experiment, f"ensembles.{name}", ensemble.members):
            for combine in ensemble.combine:
                place = "/".join(part for part in ("ensembles", name, seed_text(seed)) if part)
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
            graph.protocols[protocol.name] = Protocol.model_validate(values)
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
        place = "/".join(part for part in ("selections", name, seed_text(seed)) if part)
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
    starts = {member.init for member in experiment.members.values()}
    trained = [n for n, member in experiment.members.items() if member.recipe is not None]
    chosen = next((name for name in trained if name not in starts), None)
    return member_recipe(experiment, chosen, None) if chosen else None
