"""The folder of a run: its metrics, whether it may be used, and replacing an older result.

Nothing here imports torch before it is needed: experiments look at run folders, too.
"""

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.tensors import AVERAGES, RECIPE_FILE, WEIGHTS_FILE
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.output_folders import (
    SCRATCH_PREFIX,
    beside,
    folder_state,
    mark_output,
    real_path,
    replace_folder,
)
from revt_hf.core.outputs import check_apart, check_output, write_text
from revt_hf.models.recorded import METRICS_FILE, read_metrics, recorded_recipe
from revt_hf.training.run_checkpoints import CHECKPOINT_FOLDER, newest_checkpoint

TRACKER_PROJECT = "revt_hf"
RUN_FILE = "run.json"
# In a run that trains beside an older result: the state of that result.
_REPLACES_FILE = f"{SCRATCH_PREFIX}replaces"
_MODEL_FILES = (WEIGHTS_FILE, "config.json", "preprocessor_config.json", RECIPE_FILE)
_WRITTEN = (
    *_MODEL_FILES,
    *(f"{name}/{file}" for name in AVERAGES for file in (*_MODEL_FILES, "window.json")),
    METRICS_FILE,
    RUN_FILE,
    f"{CHECKPOINT_FOLDER}/step-*",
    # Trackers that write files.
    f"{TRACKER_PROJECT}/*",
)


class MetricsLog:
    """One JSON object per line, ``step`` first; lines after a resumed step are dropped."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self._path = folder / METRICS_FILE
        kept = [row for row in read_metrics(folder) if row["step"] <= resumed_step]
        write_text(self._path, "".join(f"{json.dumps(row)}\n" for row in kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append the values of one step."""
        with readable_os_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose library is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"train.trackers: {name} is not installed: pip install {name}")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings as one level of scalars, which is all that TensorBoard accepts."""
    result: dict[str, str | int | float | bool] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            scalar = isinstance(value, str | int | float | bool)
            result[f"{prefix}{key}"] = value if scalar else str(value)
    return result


def check_run(recipe: Recipe, run: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that cannot be trained in, without changing anything."""
    aside = _run_beside(run)
    if not resume:
        check_output(run, overwrite, recipe.inputs)
        if aside is not None and not overwrite:
            raise UserError(
                f"{aside} holds an unfinished run for {run}: pass --resume to continue it, or "
                "--overwrite to start over"
            )
        return
    check_apart(run, recipe.inputs)
    if aside is not None and not _may_replace(aside, run):
        raise UserError(
            f"{run} is not what the unfinished run in {aside} was to replace: move it away and "
            "resume, or start over with --overwrite"
        )
    folder = training_folder(run)
    before = recorded_recipe(folder)
    if before is None:
        raise UserError(f"nothing to resume in {folder}: it has no recipe.yaml")
    if before != recipe:
        raise UserError(
            f"{folder} was started with another recipe: resume with {folder / RECIPE_FILE}"
        )


def training_folder(run: Path) -> Path:
    """Where a run trains: in its own folder or, to replace a finished result, in one beside it.

    A folder beside it that was to replace something else than the current result is ignored.
    """
    aside = _run_beside(run)
    return aside if aside is not None and _may_replace(aside, run) else run


def begin_run(run: Path, resume: bool) -> Path:
    """Prepare and return the folder to train in; an unfinished run is removed, a result stays."""
    if resume:
        return training_folder(run)
    target = real_path(run)
    aside = beside(target, "training")
    with readable_os_errors(run):
        shutil.rmtree(aside, ignore_errors=True)
        if (target / RUN_FILE).exists() and not (target / WEIGHTS_FILE).exists():
            shutil.rmtree(target)
        is_result = target.exists() and any(target.iterdir())
        folder = aside if is_result else target
        folder.mkdir(parents=True, exist_ok=True)
        mark_output(folder, _WRITTEN)
        if is_result:
            # Written last: without it the folder cannot be resumed.
            (folder / _REPLACES_FILE).write_text(folder_state(target) or "")
    return folder


def finish_run(folder: Path, run: Path) -> None:
    """Move a run that was trained beside an older result to that result's place."""
    target = real_path(run)
    if real_path(folder) == target:
        return
    if not _may_replace(folder, run):
        raise UserError(
            f"{run} was changed while its replacement was trained, so it is left alone: the "
            f"finished run is in {folder}, move it where you want it"
        )
    with readable_os_errors(run):
        replace_folder(folder, target)
        (target / _REPLACES_FILE).unlink(missing_ok=True)


def give_up_run(folder: Path, run: Path) -> None:
    """After a failure, remove a run beside an older result unless it can be resumed."""
    useless = newest_checkpoint(folder) is None and not (folder / WEIGHTS_FILE).exists()
    if useless and real_path(folder) != real_path(run):
        shutil.rmtree(folder, ignore_errors=True)


def _run_beside(run: Path) -> Path | None:
    """The folder of a run that is to replace the result in ``run``, if there is one."""
    aside = beside(real_path(run), "training")
    return aside if (aside / _REPLACES_FILE).is_file() else None


def _may_replace(aside: Path, run: Path) -> bool:
    """Whether the run's folder is free, or still as it was when ``aside`` was begun."""
    try:
        now = folder_state(real_path(run))
        return now is None or now == (aside / _REPLACES_FILE).read_text()
    except (OSError, ValueError):
        return False
