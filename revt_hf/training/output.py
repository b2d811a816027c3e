"""A run's folder: may it be used, where is it trained, and the swap of a new result for an old."""

import shutil
from pathlib import Path

from revt_hf.checkpoints.tensors import AVERAGES, RECIPE_FILE, WEIGHTS_FILE
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import (
    beside,
    check_apart,
    check_output,
    folder_state,
    mark_output,
    readable_os_errors,
    real_path,
    replace_folder,
)
from revt_hf.models.recorded import recorded_recipe
from revt_hf.training.run_checkpoints import (
    CHECKPOINT_FOLDER,
    REPLACES_FILE,
    may_replace,
    newest_checkpoint,
    run_beside,
    training_folder,
)
from revt_hf.training.run_record import RUN_FILE, check_same_processes
from revt_hf.training.tracking import METRICS_FILE, TRACKER_PROJECT

_MODEL_FILES = (WEIGHTS_FILE, "config.json", "preprocessor_config.json", RECIPE_FILE)
_WRITTEN = (
    *_MODEL_FILES,
    *(f"{name}/{file}" for name in AVERAGES for file in (*_MODEL_FILES, "window.json")),
    METRICS_FILE,
    RUN_FILE,
    f"{CHECKPOINT_FOLDER}/step-*",
    # What a tracker keeps in files.
    f"{TRACKER_PROJECT}/*",
)


def check_run(recipe: Recipe, run: Path, resume: bool, overwrite: bool, processes: int) -> None:
    """Refuse a folder that cannot be trained in; nothing is changed.

    Args:
        recipe: of the run.
        run: its folder.
        resume: go on with what is there.
        overwrite: replace what is there.
        processes: how many train together.

    Raises:
        UserError: the folder would destroy something, perhaps an unfinished run beside it; or there
            is nothing to resume, it was started with another recipe or number of processes, or
            what it was to replace is no longer there, but something else.
    """
    aside = run_beside(run)
    if not resume:
        check_output(run, overwrite, recipe.inputs)
        if aside is not None and not overwrite:
            raise UserError(
                f"{aside} holds an unfinished run for {run}: pass --resume to go on with it, or "
                "--overwrite to begin anew"
            )
        return
    check_apart(run, recipe.inputs)
    if aside is not None and not may_replace(aside, run):
        raise UserError(
            f"{run} is not what the unfinished run in {aside} was to replace: move it away and "
            "resume, or begin anew with --overwrite"
        )
    folder = training_folder(run)
    before = recorded_recipe(folder)
    if before is None:
        raise UserError(f"nothing to resume in {folder}: it has no recipe.yaml")
    if before != recipe:
        raise UserError(
            f"{folder} was started with another recipe: resume with {folder / RECIPE_FILE}"
        )
    check_same_processes(folder, processes)


def begin_run(run: Path, resume: bool) -> Path:
    """The folder to train in; what an unfinished run left goes, a finished result stays.

    Raises:
        UserError: it cannot be written.
    """
    if resume:
        return training_folder(run)
    place = real_path(run)
    aside = beside(place, "training")
    with readable_os_errors(run):
        shutil.rmtree(aside, ignore_errors=True)
        begun = (place / RUN_FILE).exists() and not (place / WEIGHTS_FILE).exists()
        if begun:
            shutil.rmtree(place)
        is_result = place.exists() and any(place.iterdir())
        folder = aside if is_result else place
        folder.mkdir(parents=True, exist_ok=True)
        mark_output(folder, _WRITTEN)
        if is_result:
            # Last: without it the folder is not one to go on with.
            (folder / REPLACES_FILE).write_text(folder_state(place) or "")
    return folder


def finish_run(folder: Path, run: Path) -> None:
    """Put a run that was trained beside an older result into that one's place.

    Raises:
        UserError: it cannot be written, or the older one was changed meanwhile; both are there
            then.
    """
    place = real_path(run)
    if real_path(folder) == place:
        return
    if not may_replace(folder, run):
        raise UserError(
            f"{run} was changed while its replacement was trained, so it is left alone: the "
            f"finished run is in {folder}, move it where you want it"
        )
    with readable_os_errors(run):
        replace_folder(folder, place)
        (place / REPLACES_FILE).unlink(missing_ok=True)


def give_up_run(folder: Path, run: Path) -> None:
    """After a failure: what was trained beside an older result stays if it can be resumed."""
    useless = newest_checkpoint(folder) is None and not (folder / WEIGHTS_FILE).exists()
    if useless and real_path(folder) != real_path(run):
        shutil.rmtree(folder, ignore_errors=True)
