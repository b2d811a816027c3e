"""A run's folder before training: may it be used, and what an earlier run left in it."""

import shutil
from pathlib import Path

from revt_hf.checkpoints.tensors import AVERAGES
from revt_hf.errors import UserError
from revt_hf.recipe import Recipe
from revt_hf.recorded import recorded_recipe
from revt_hf.training.checkpoints import CHECKPOINT_FOLDER
from revt_hf.training.run_record import RUN_FILE, check_same_processes
from revt_hf.training.tracking import METRICS_FILE

_RESULTS = (
    "model.safetensors",
    "config.json",
    "preprocessor_config.json",
    METRICS_FILE,
    RUN_FILE,
)


def check_resumable(recipe: Recipe, run: Path, processes: int) -> None:
    """Refuse to go on with what is not the same run.

    Raises:
        UserError: nothing to resume, another recipe, or another number of processes.
    """
    before = recorded_recipe(run)
    if before is None:
        raise UserError(f"nothing to resume in {run}: it has no recipe.yaml")
    if before != recipe:
        raise UserError(f"{run} was started with another recipe: resume with {run}/recipe.yaml")
    check_same_processes(run, processes)


def clear_run(run: Path) -> None:
    """Remove what an earlier run left; nothing else in the folder is touched."""
    for name in (CHECKPOINT_FOLDER, *AVERAGES):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in _RESULTS:
        (run / name).unlink(missing_ok=True)
