"""From an experiment to the graph of its steps."""

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.config.recipe import Recipe, load_recipe
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Kind, splits_of
from revt_hf.experiments.experiment_recipe import (
    Experiment,
    Member,
    MergeSection,
    NamedProtocol,
    Selection,
    member_recipe,
)
from revt_hf.experiments.graph import (
    Graph,
    head_numbers,
    member_step,
    step_id,
    variants,
    with_seeds,
)
from revt_hf.experiments.model_steps import Average, Given, MergeStep, Recalibrate, Train
from revt_hf.experiments.score_steps import Choose, Network, Score
from revt_hf.merging.registry import MergeSpec, check_spec


def build_graph(experiment: Experiment) -> Graph:
    """All steps of an experiment."""
    graph = Graph(experiment)
    _add_members(graph)
    recipe = _evaluation_recipe(experiment)
    for name, section in experiment.merges.items():
        for seed, members in with_seeds(experiment, f"merges.{name}", section.members):
            _add_merges(graph, name, section, seed, members, recipe)
    _add_ensembles(graph)
    if graph.networks:
        _add_scores(graph, recipe)
    for name, selection in experiment.selections.items():
        _add_selections(graph, name, selection)
    return graph


def _add_members(graph: Graph) -> None:
    members = graph.experiment.members
    inits = {member.init for member in members.values()}
    waiting = list(members)
    while waiting:
        ready = [name for name in waiting if not _used_by(members[name]).intersection(waiting)]
        if not ready:
            raise UserError(f"members.{waiting[0]}: the members start from each other")
        for name in ready:
            _add_member(graph, name, "init" if name in inits else "member")
            waiting.remove(name)
    # In the order of the file.
    order = {name: number for number, name in enumerate(members)}
    graph.networks = dict(
        sorted(graph.networks.items(), key=lambda item: order[item[0].split("/")[1]])
    )


def _used_by(member: Member) -> set[str | None]:
    return {name and name.split("/")[0] for name in (member.init, member.of)}


def _add_member(graph: Graph, name: str, kind: Kind) -> None:
    experiment = graph.experiment
    member = experiment.members[name]
    for seed in experiment.seeds_of(name) or (None,):
        member_id = step_id("members", name, seed)
        if member.checkpoint is not None:
            graph.add(Given(member_id, (), member.checkpoint.replace("{seed}", str(seed))))
        elif member.of is not None:
            graph.add(_average(graph, name, seed))
        else:
            graph.add(_training(graph, name, seed))
        if member.evaluate:
            title = member.title or name
            graph.networks[member_id] = Network(
                member_id, title, kind, seed, (member_id,), paper=member.paper
            )


def _average(graph: Graph, name: str, seed: int | None) -> Average:
    member = graph.experiment.members[name]
    where = f"members.{name}.of"
    training = member_step(graph.experiment, where, str(member.of), seed)
    step, kind = graph.steps[training], str(member.average)
    if not isinstance(step, Train) or getattr(step.recipe.train, kind) is None:
        raise UserError(
            f"{where}: '{member.of}' keeps no such average; its recipe needs train.{kind}"
        )
    return Average(step_id("members", name, seed), (training,), kind)


def _training(graph: Graph, name: str, seed: int | None) -> Train:
    member = graph.experiment.members[name]
    recipe = member_recipe(graph.experiment, name, seed)
    inputs: tuple[str, ...] = ()
    if member.init is not None:
        where = f"members.{name}.init"
        inputs = (member_step(graph.experiment, where, member.init, seed),)
        if isinstance(graph.steps[inputs[0]], Average):
            raise UserError(
                f"{where}: '{member.init}' is an average; use a training or a checkpoint"
            )
        # Its folder is known when the step runs.
        model = recipe.model.model_copy(update={"init": None})
        recipe = recipe.model_copy(update={"model": model})
    return Train(step_id("members", name, seed), inputs, recipe)


def _evaluation_recipe(experiment: Experiment) -> Recipe | None:
    if experiment.evaluate.recipe is not None:
        return load_recipe(experiment.evaluate.recipe)
    inits = {member.init for member in experiment.members.values()}
    for name, member in experiment.members.items():
        if member.recipe is not None and name not in inits:
            return member_recipe(experiment, name, None)
    return None


def _add_merges(
    graph: Graph,
    name: str,
    section: MergeSection,
    seed: int | None,
    members: dict[str, str],
    recipe: Recipe | None,
) -> None:
    base, steps = section.base, tuple(members.values())
    if base is not None and base.split("/")[0] in graph.experiment.members:
        base = member_step(graph.experiment, f"merges.{name}.base", base, seed)
    inputs = (*steps, base) if base in graph.steps else steps
    heads = head_numbers(name, section, list(members))
    for variant, rules in variants(name, section, len(members)):
        try:
            # Hours of training come before the merge: refuse at once what cannot work.
            check_spec(MergeSpec(steps, rules, 1, base))
        except UserError as error:
            raise UserError(f"merges.{name}: {error}") from error
        group = " ".join(part for part in (section.title or name, variant) if part)
        for head in heads:
            label = list(members)[head - 1].replace("/", "-")
            merge = MergeStep(
                step_id("merges", name, seed, variant, f"head-{label}"),
                inputs,
                steps,
                rules,
                head,
                base,
            )
            graph.add(merge)
            if not section.keep:
                del graph.steps[merge.id]
                graph.temporary[merge.id] = merge
            made: list[tuple[str, Kind, str]] = [(merge.id, "merge", group)]
            if section.recalibrate is not None:
                if recipe is None:
                    raise UserError(f"merges.{name}.recalibrate needs evaluate.recipe")
                again = f"recalibrated/{merge.id.removeprefix('merges/')}"
                graph.add(Recalibrate(again, (merge.id,), recipe.sources, section.recalibrate))
                made.append((again, "recalibrated", f"{group}, recalibrated"))
            for made_id, kind, title in made if section.evaluate else ():
                paper = section.paper if kind == "merge" else None
                graph.networks[made_id] = Network(
                    made_id, title, kind, seed, (made_id,), label, paper
                )


def _add_ensembles(graph: Graph) -> None:
    for name, ensemble in graph.experiment.ensembles.items():
        where = f"ensembles.{name}"
        for seed, members in with_seeds(graph.experiment, where, ensemble.members):
            steps = tuple(members.values())
            for combine in ensemble.combine:
                title = f"{ensemble.title or name}, {combine}"
                heads = list(members) if combine == "features" else [None]
                for number, head in enumerate(heads):
                    label = head.replace("/", "-") if head else None
                    network_id = step_id(
                        "ensembles", name, seed, combine, label and f"head-{label}"
                    )
                    # The first part provides the head.
                    parts = (*steps[number:], *steps[:number])
                    graph.networks[network_id] = Network(
                        *(network_id, title, "ensemble", seed, parts, label),
                        paper=ensemble.paper,
                        combine=combine,
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
    splits = tuple(graph.splits)
    for name, chosen in graph.protocols.items():
        for network in graph.networks.values():
            merge = graph.temporary.get(network.id)
            inputs = merge.inputs if merge else network.parts
            score_id = f"results/{name}/{network.id}"
            graph.add(Score(score_id, inputs, network, name, chosen, splits, evaluate, merge))


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
    targets = {split.label for split in graph.splits if not split.is_source}
    for seed in dict.fromkeys(network.seed for network in found):
        candidates = tuple(network.id for network in found if network.seed == seed)
        chosen_id = step_id("selections", name, seed)
        inputs = tuple(f"results/{p}/{c}" for p in graph.protocols for c in candidates)
        network = Network(
            *(chosen_id, selection.title or name, "selection", seed, (chosen_id,)),
            paper=selection.paper,
        )
        on_target = bool(targets.intersection(on))
        graph.add(
            Choose(chosen_id, inputs, network, candidates, on, on_target, tuple(graph.protocols))
        )
        graph.networks[chosen_id] = network


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
