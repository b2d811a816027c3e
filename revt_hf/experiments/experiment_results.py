"""Scores of an experiment's networks, its tables and its report: all that takes torch to import."""

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from revt_hf.checkpoints.architecture import computing, size_name
from revt_hf.checkpoints.tensors import MERGE_FILE, WEIGHTS_FILE
from revt_hf.core.outputs import file_sha256, read_json_object, write_text
from revt_hf.core.processes import process_state
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.cost import cost_of, device_name, library_versions
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.evaluate import (
    EvaluateOptions,
    as_segmenter,
    evaluate,
    load_for_evaluation,
)
from revt_hf.evaluation.predictor import Segmenter
from revt_hf.evaluation.result import (
    CheckpointHash,
    Cost,
    Provenance,
    read_results,
    write_results,
)
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.graph import Graph
from revt_hf.experiments.steps import Network, Score, read_result, result_file
from revt_hf.models.recorded import recorded_recipe
from revt_hf.results.formats import TableFormat, formatted, print_layouts
from revt_hf.results.layout import TableLayout
from revt_hf.results.page import write_page
from revt_hf.results.report import ModelKind, ReportModel, compare
from revt_hf.results.tables import TableOptions, build_tables

_COSTS: dict[str, Cost] = {}
_SUFFIXES = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "html": ".html"}
_PAGE_KINDS: dict[str, ModelKind] = {"init": "init", "member": "member", "merge": "merge"}
_PAGE_KINDS |= {"recalibrated": "merge", "refit": "merge", "ensemble": "ensemble"}


def score_networks(
    steps: Sequence[Score], folder: ExperimentFolder, on_image: Callable[[], object]
) -> None:
    """Score networks and write each one's result; each image is decoded once for all."""
    first, since = steps[0], time.perf_counter()
    models: dict[str, Any] = {}
    facts, segmenters = {}, {}
    for step in steps:
        network = step.network
        with _model_folders(step, folder) as folders:
            for part, path in zip(network.parts, folders, strict=True):
                if part not in models:
                    models[part] = load_for_evaluation(path)
            facts[step.id] = _facts(network, folders)
        parts = [models[part] for part in network.parts]
        facts[step.id]["size"] = size_name(parts[0].config)
        segmenters[step.id] = (
            as_segmenter(parts[0])
            if network.combine is None
            else ensemble_segmenter(parts, network.combine, 1)
        )
    how = first.evaluate
    options = EvaluateOptions(
        batch_size=how.batch_size,
        workers=how.workers,
        quiet=True,
        calibration=how.calibration,
    )
    results = evaluate(segmenters, first.splits, first.protocol, options, on_image)
    seconds = round((time.perf_counter() - since) / len(steps), 2)
    for step, result in zip(steps, results, strict=True):
        network, about = step.network, facts[step.id]
        about["provenance"] = about["provenance"].model_copy(update={"seconds": seconds})
        about |= {"model": network.id, "head": network.head, "protocol_name": step.protocol_name}
        about["cost"] = _cost(step, segmenters[step.id]) if step.evaluate.cost else None
        result = result.model_copy(update={**network.labels, **about})
        write_results(step.output(folder), [result])


@contextmanager
def _model_folders(step: Score, folder: ExperimentFolder) -> Iterator[list[Path]]:
    """The models of a network; a merge that is not kept exists only inside the block."""
    if step.merge is None:
        yield [Path(folder.model_of(part)) for part in step.network.parts]
        return
    with TemporaryDirectory(prefix=".merge-", dir=folder.path) as scratch:
        yield [step.merge.write(folder, Path(scratch) / "merge")]


def _cost(step: Score, segmenter: Segmenter) -> Cost:
    """Cost on the first split's first image; networks of the same architecture share it."""
    first = step.splits[0]
    height, width = load_spec(first.spec, first.split)[0]["image"].shape[:2]
    configs = [model.config for model in segmenter.models]
    built = [computing(one.to_dict()) for one in configs]
    protocol = step.protocol.model_dump(mode="json")
    key = json.dumps([step.network.combine, built, height, width, protocol], default=str)
    if key not in _COSTS:
        _COSTS[key] = cost_of(segmenter, (height, width), step.protocol)
    return _COSTS[key]


def _facts(network: Network, folders: Sequence[Path]) -> dict[str, Any]:
    """The weights, how they were made, and the machine that scores them."""
    weights = [path / WEIGHTS_FILE for path in folders]
    merged = folders[0] / MERGE_FILE
    recipe = recorded_recipe(folders[0])
    device = process_state().device
    cpu = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return {
        "checkpoints": tuple(
            CheckpointHash(path=part, sha256=file_sha256(file) if file.is_file() else None)
            for part, file in zip(network.parts, weights, strict=True)
        ),
        "provenance": Provenance(
            recipe=recipe.model_dump(mode="json") if recipe else None,
            merge=read_json_object(merged) if merged.is_file() else None,
            versions=library_versions(),
            device=cpu if device.type == "cpu" else device_name(device),
        ),
    }


def write_outputs(graph: Graph, folder: ExperimentFolder, name: str, quiet: bool) -> list[Path]:
    """Write ``tables/NAME.*`` and ``reports/NAME.html`` from the networks that have been scored."""
    found = [
        result_file(folder, protocol, network.id)
        for protocol in graph.protocols
        for network in graph.networks.values()
        if _is_scored(folder, protocol, network)
    ]
    if not found:
        return []
    how = graph.experiment.evaluate
    options = TableOptions(cost=how.cost, calibration=how.calibration)
    tables = build_tables(read_results(found), options)
    written = [folder.path / "tables" / f"{name}{suffix}" for suffix in _SUFFIXES.values()]
    for path, chosen in zip(written, _SUFFIXES, strict=True):
        write_text(path, formatted(tables, TableFormat(chosen)))
    if not quiet:
        print_layouts(tables)
    page = folder.path / "reports" / f"{name}.html"
    if graph.experiment.report and _write_report(graph, folder, page, tables):
        written.append(page)
    return written


def _is_scored(folder: ExperimentFolder, protocol: str, network: Network) -> bool:
    is_choice = network.kind == "selection"
    return folder.done(network.id if is_choice else f"results/{protocol}/{network.id}")


def _write_report(
    graph: Graph, folder: ExperimentFolder, page: Path, tables: Sequence[TableLayout]
) -> bool:
    """Write a page on the first merge, its members and their init; False if there is no merge."""
    name, protocol = next(iter(graph.protocols.items()))
    shown = _first_merge(graph)
    if graph.experiment.evaluate.calibration:
        shown += _ensembles_of(graph, shown)
    networks = [one for one in shown if _is_scored(folder, name, one)]
    kinds = {_PAGE_KINDS[network.kind] for network in networks}
    if not {"member", "merge"} <= kinds or len({split.is_source for split in graph.splits}) < 2:
        return False
    models, results = [], []
    for one in networks:
        title = one.group + (f", head {one.head}" if one.head else "")
        seed = "" if one.seed is None else f"seed {one.seed}"
        model = folder.model_of(one.parts[0])
        models.append(ReportModel(title, _PAGE_KINDS[one.kind], model, seed))
        result = read_result(result_file(folder, name, one.id))
        results.append(result.model_copy(update={"model": title}))
    report = compare(
        graph.experiment.title,
        graph.experiment.intro or "Members and their merges, and how they do on unseen domains.",
        models,
        graph.splits,
        protocol,
        {"All seeds, heads and ensembles": formatted(tables, TableFormat.terminal)},
        results,
    )
    write_page(report, page)
    return True


def _first_merge(graph: Graph) -> list[Network]:
    """The first merge of the first seed with every head, its inputs, and what they start from."""
    shown = [network for network in graph.networks.values() if network.id in graph.steps]
    first = next((network for network in shown if network.kind == "merge"), None)
    if first is None:
        return []
    members = graph.steps[first.id].inputs
    heads = [n.id for n in shown if n.group == first.group and graph.steps[n.id].inputs == members]
    return [
        network
        for network in shown
        if network.kind == "init"
        or network.id in (*members, *heads)
        or (network.kind in ("recalibrated", "refit") and _changed_merge(network) in heads)
    ]


def _changed_merge(network: Network) -> str:
    """The merge that a network was before it was changed."""
    return f"merges/{network.id.partition('/')[2]}"


def _ensembles_of(graph: Graph, networks: Sequence[Network]) -> list[Network]:
    """The ensembles of exactly the members among some networks."""
    members = {network.id for network in networks if network.kind == "member"}
    ensembles = [one for one in graph.networks.values() if one.kind == "ensemble"]
    return [one for one in ensembles if set(one.parts) == members]
