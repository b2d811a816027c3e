"""The folder of an experiment that has run: two members, their merge, and their results."""

import shutil
from pathlib import Path

from revt_hf.core.outputs import file_sha256, write_json
from revt_hf.evaluation.result import CheckpointHash, write_results
from revt_hf.experiments.experiment_folder import ExperimentFolder, StepRecord
from revt_hf.merging.average import merge
from tests.helpers.pushed import Models, results_of

BASE, OTHER = "members/base/0", "members/pixmix/0"
MERGE = "merges/revt/0/head-base"


def finish(run: Path, step: str) -> None:
    """Record a step as finished with what it left."""
    folder = ExperimentFolder(run, {})
    result = folder._stamp(run / step / "model.safetensors")
    record = StepRecord(step=step, inputs="", result=result, seconds=1.0)
    write_json(run / ".steps" / f"{step}.json", record.model_dump(mode="json"))


def finished_run(models: Models, run: Path) -> Path:
    for source, step in ((models.base, BASE), (models.pixmix, OTHER)):
        shutil.copytree(source, run / step)
        finish(run, step)
    merge([run / BASE, run / OTHER], run / MERGE)
    finish(run, MERGE)
    merged, base = results_of(models)
    score(run, MERGE, merged, kind="merge", group="ReVT")
    score(run, BASE, base, kind="member", group="1 base")
    # A selection repeats the scores of the model that it chose.
    score(run, "selections/best/0", merged, kind="selection", group="best", of=MERGE)
    return run


def score(run, step, result, of=None, protocol="recipe", **fields):
    weights = run / (of or step) / "model.safetensors"
    held = (CheckpointHash(path=of or step, sha256=file_sha256(weights)),)
    result = result.model_copy(update={"model": of or step, "checkpoints": held, **fields})
    file = run / "results" / protocol / f"{step}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_results(file, [result])
