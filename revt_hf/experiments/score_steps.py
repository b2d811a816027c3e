"""Scoring an experiment's networks: several at a time, each image decoded once for all."""

import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from revt_hf.checkpoints.architecture import size_name
from revt_hf.checkpoints.tensors import MERGE_FILE, WEIGHTS_FILE
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256, read_json_object, write_json
from revt_hf.core.processes import process_state
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.cost import cost_of, device_name
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.evaluate import (
    EvaluateOptions,
    as_segmenter,
    evaluate,
    load_for_evaluation,
)
from revt_hf.evaluation.predictor import Segmenter
from revt_hf.evaluation.result import (
    Checkpoint,
    Cost,
    Provenance,
    Result,
    Selected,
    library_versions,
    read_results,
    write_results,
)
from revt_hf.experiments.graph import Choose, Graph, Network, Score, Step
from revt_hf.experiments.ledger import Ledger
from revt_hf.experiments.merging import make_merge
from revt_hf.models.recorded import recorded_recipe

# Of weights that are held at a time; a network by itself may go beyond it.
_TOGETHER_BYTES = 3 * 2**30
_COSTS: dict[str, Cost] = {}
# An interruption loses what is scored at the moment: no more than this.
_TOGETHER = 12


def groups(steps: Sequence[Step], graph: Graph, ledger: Ledger) -> Iterator[list[Step]]:
    """Scores of one protocol that fit into memory together, in order."""
    group: list[Step] = []
    held: dict[str, int] = {}
    for step in steps:
        parts = {ledger.model_of(part) for part in _network(step, graph).parts}
        new = {part: _bytes(part) for part in parts - held.keys()}
        full = sum(held.values()) + sum(new.values()) > _TOGETHER_BYTES or len(group) == _TOGETHER
        if group and (full or _score(step).protocol != _score(group[0]).protocol):
            yield group
            group, held, new = [], {}, {part: _bytes(part) for part in parts}
        group.append(step)
        held |= new
    if group:
        yield group


def score(
    group: Sequence[Step],
    graph: Graph,
    ledger: Ledger,
    on_image: Callable[[], object] = lambda: None,
) -> None:
    """Score the networks of a group on all splits and write each one's evaluation.

    Args:
        group: steps of one protocol, see :func:`groups`.
        graph: of the experiment.
        ledger: knows where results lie.
        on_image: called after each image, for a progress bar.

    Raises:
        UserError: a model or a domain cannot be read.
    """
    protocol = graph.protocols[_score(group[0]).protocol]
    settings = graph.experiment.evaluate
    since = time.perf_counter()
    networks = {step.id: _network(step, graph) for step in group}
    models, abouts = _loaded(networks.values(), graph, ledger)
    segmenters = {
        step_id: _segmenter([models[part] for part in network.parts], network)
        for step_id, network in networks.items()
    }
    options = EvaluateOptions(batch_size=settings.batch_size, workers=settings.workers, quiet=True)
    results = evaluate(segmenters, graph.splits, protocol, options, on_image)
    seconds = (time.perf_counter() - since) / len(group)
    for step, result in zip(group, results, strict=True):
        network = networks[step.id]
        cost = _cost(segmenters[step.id], network, graph, protocol) if settings.cost else None
        about = abouts[network.id]
        about["provenance"] = about["provenance"].model_copy(update={"seconds": round(seconds, 2)})
        labelled = {
            **_labels(network),
            "head": network.head,
            "protocol_name": _score(step).protocol,
        }
        result = result.model_copy(update={"model": network.id, "cost": cost, **labelled, **about})
        write_results(ledger.result_of(step.id), [result])
        ledger.finish(step.id, seconds)


def choose(step: Step, graph: Graph, ledger: Ledger) -> None:
    """Carry out a selection: write what was chosen, and its evaluations under its own name.

    Raises:
        UserError: a candidate has no score.
    """
    work = step.work
    if not isinstance(work, Choose):
        raise TypeError(f"{step.id} is no selection")
    since = time.perf_counter()
    first, *_ = graph.protocols
    scores = {
        candidate: _mean_on(read_result(ledger.evaluation_of(first, candidate)), work.on)
        for candidate in work.candidates
    }
    best = max(scores, key=lambda candidate: scores[candidate])
    sources = {split.label for split in graph.splits if split.is_source}
    network = graph.networks[step.id]
    for protocol in graph.protocols:
        selected = Selected(
            on=work.on, target=not set(work.on) <= sources, candidates=len(scores), chosen=best
        )
        found = read_result(ledger.evaluation_of(protocol, best)).model_copy(
            update={**_labels(network), "selected": selected}
        )
        write_results(ledger.evaluation_of(protocol, step.id), [found])
    write_json(ledger.result_of(step.id), {"chosen": best, "on": list(work.on), "scores": scores})
    ledger.finish(step.id, time.perf_counter() - since)


def relabel(step: Step, graph: Graph, ledger: Ledger) -> None:
    """Bring the labels of a finished score up to date: titles are not worth scoring again."""
    path = ledger.result_of(step.id)
    found = read_result(path)
    renamed = found.model_copy(update=_labels(_network(step, graph)))
    if renamed != found:
        write_results(path, [renamed])
        ledger.refresh(step.id)


def evaluations(graph: Graph, ledger: Ledger) -> list[Path]:
    """The evaluations that are there, in the order of the networks."""
    paths = []
    for protocol in graph.protocols:
        for network in graph.networks.values():
            step = network.id if network.kind == "selection" else f"results/{protocol}/{network.id}"
            if ledger.done(step):
                paths.append(ledger.evaluation_of(protocol, network.id))
    return paths


def _score(step: Step) -> Score:
    if not isinstance(step.work, Score):
        raise TypeError(f"{step.id} scores nothing")
    return step.work


def _network(step: Step, graph: Graph) -> Network:
    return graph.networks[_score(step).network]


def _loaded(
    networks: Iterable[Network], graph: Graph, ledger: Ledger
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Models by their steps, and what results say of the networks made of them."""
    models: dict[str, Any] = {}
    abouts = {}
    for network in networks:
        with _folders(network, graph, ledger) as folders:
            for part, folder in zip(network.parts, folders, strict=True):
                if part not in models:
                    models[part] = load_for_evaluation(folder)
            size = size_name(models[network.parts[0]].config)
            abouts[network.id] = {"size": size, **_about(network, folders)}
    return models, abouts


@contextmanager
def _folders(network: Network, graph: Graph, ledger: Ledger) -> Iterator[list[Path]]:
    """Where a network's parts lie; a merge that is not kept is made, and gone afterwards."""
    if network.id not in graph.passing:
        yield [Path(ledger.model_of(part)) for part in network.parts]
        return
    with TemporaryDirectory(prefix=".merge-", dir=ledger.folder) as scratch:
        yield [make_merge(graph.passing[network.id], graph, ledger, Path(scratch) / "merge")]


def _segmenter(models: Sequence[Any], network: Network) -> Segmenter:
    if network.combine is None:
        return as_segmenter(models[0])
    # The first part gives the head.
    return ensemble_segmenter(models, network.combine, 1)


def _cost(segmenter: Segmenter, network: Network, graph: Graph, protocol: Protocol) -> Cost:
    """Cost on the first split's first image; of networks that are built alike, the first's."""
    first = graph.splits[0]
    image = load_spec(first.spec, first.split)[0]["image"]
    size = (int(image.shape[0]), int(image.shape[1]))
    built = [
        [m.config.depths, m.config.hidden_sizes, m.config.decoder_hidden_size]
        for m in segmenter.models
    ]
    key = json.dumps([network.combine, built, size, protocol.model_dump(mode="json")])
    if key not in _COSTS:
        _COSTS[key] = cost_of(segmenter, size, protocol)
    return _COSTS[key]


def _labels(network: Network) -> dict[str, Any]:
    """What may change without scoring again."""
    return {
        "group": network.group,
        "kind": network.kind,
        "seed": network.seed,
        "paper": network.paper,
    }


def _about(network: Network, folders: Sequence[Path]) -> dict[str, Any]:
    """Weights, how they were made, and the machine that scores them."""
    first = folders[0]
    merged = first / MERGE_FILE
    recipe = recorded_recipe(first)
    checkpoints = [
        Checkpoint(
            path=part,
            sha256=file_sha256(folder / WEIGHTS_FILE)
            if (folder / WEIGHTS_FILE).is_file()
            else None,
        )
        for part, folder in zip(network.parts, folders, strict=True)
    ]
    return {
        "checkpoints": tuple(checkpoints),
        "provenance": Provenance(
            recipe=recipe.model_dump(mode="json") if recipe else None,
            merge=read_json_object(merged) if merged.is_file() else None,
            versions=library_versions(),
            device=_device(),
        ),
    }


def _device() -> str:
    device = process_state().device
    if device.type == "cpu":
        return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return device_name(device)


def _mean_on(result: Result, labels: Sequence[str]) -> float:
    scores = {score.label: score.miou for score in result.scores}
    return sum(scores[label] for label in labels) / len(labels)


def _bytes(folder: str) -> int:
    path = Path(folder) / WEIGHTS_FILE
    return path.stat().st_size if path.is_file() else 0


def read_result(path: Path) -> Result:
    """The result of a scored network.

    Raises:
        UserError: it cannot be read.
    """
    try:
        (result,) = read_results([path])
        return result
    except (UserError, ValueError) as error:
        raise UserError(f"cannot read the evaluation {path}: delete it and run again") from error
