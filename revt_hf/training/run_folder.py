"""The folder of a run: whether it may be used, where to train, and replacing an older result.

Nothing here imports torch: plans of experiments look at run folders, too.
"""

import shutil
from pathlib import Path

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
from revt_hf.core.outputs import check_apart, check_output
from revt_hf.models.recorded import METRICS_FILE, recorded_recipe
from revt_hf.training.run_checkpoints import CHECKPOINT_FOLDER, newest_checkpoint
from revt_hf.training.tracking import TRACKER_PROJECT

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


def check_run(recipe: Recipe, run: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that cannot be trained in, without changing anything.

    Raises:
        UserError: training would destroy something, perhaps an unfinished run beside the folder;
            or there is nothing to resume, the run was started with another recipe, or the result
            that it was to replace has changed.
    """
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
    """Prepare and return the folder to train in; an unfinished run is removed, a result stays.

    Raises:
        UserError: it cannot be written.
    """
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
    """Move a run that was trained beside an older result to that result's place.

    Raises:
        UserError: it cannot be written, or the older result changed meanwhile; both are kept then.
    """
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
