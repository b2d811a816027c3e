"""Scoring the networks of an experiment: several at a time, each image decoded once for all."""

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from revt_hf.checkpoints.architecture import size_name
from revt_hf.checkpoints.tensors import MERGE_FILE, WEIGHTS_FILE
from revt_hf.core.outputs import file_sha256, read_json_object
from revt_hf.core.processes import process_state
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.cost import cost_of, device_name, library_versions
from revt_hf.evaluation.evaluate import (
    EvaluateOptions,
    as_segmenter,
    evaluate,
    load_for_evaluation,
)
from revt_hf.evaluation.predictor import Segmenter, ensemble_segmenter
from revt_hf.evaluation.result import (
    CheckpointHash,
    Cost,
    Provenance,
    write_results,
)
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.score_steps import Network, Score
from revt_hf.models.recorded import recorded_recipe

_COSTS: dict[str, Cost] = {}


def score_networks(
    steps: Sequence[Score], folder: ExperimentFolder, on_image: Callable[[], object]
) -> None:
    """Score networks on all splits of an experiment and write each one's result."""
    first = steps[0]
    since = time.perf_counter()
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
    options = EvaluateOptions(
        batch_size=first.evaluate.batch_size, workers=first.evaluate.workers, quiet=True
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
    image = load_spec(first.spec, first.split)[0]["image"]
    size = (int(image.shape[0]), int(image.shape[1]))
    built = [
        [m.config.depths, m.config.hidden_sizes, m.config.decoder_hidden_size]
        for m in segmenter.models
    ]
    key = json.dumps([step.network.combine, built, size, step.protocol.model_dump(mode="json")])
    if key not in _COSTS:
        _COSTS[key] = cost_of(segmenter, size, step.protocol)
    return _COSTS[key]


def _facts(network: Network, folders: Sequence[Path]) -> dict[str, Any]:
    """The weights, how they were made, and the machine that scores them."""
    weights = [path / WEIGHTS_FILE for path in folders]
    merged = folders[0] / MERGE_FILE
    recipe = recorded_recipe(folders[0])
    device = process_state().device
    return {
        "checkpoints": tuple(
            CheckpointHash(path=part, sha256=file_sha256(file) if file.is_file() else None)
            for part, file in zip(network.parts, weights, strict=True)
        ),
        "provenance": Provenance(
            recipe=recipe.model_dump(mode="json") if recipe else None,
            merge=read_json_object(merged) if merged.is_file() else None,
            versions=library_versions(),
            device=f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
            if device.type == "cpu"
            else device_name(device),
        ),
    }
