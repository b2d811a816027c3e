"""Checkpoints of a run in progress: written whole or not at all, the newest found again."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from revt_hf.errors import UserError

if TYPE_CHECKING:
    # Plans look for checkpoints, and need no torch for it.
    from accelerate import Accelerator

CHECKPOINT_FOLDER = "checkpoints"
_PREFIX = "step-"


def save_checkpoint(accelerator: "Accelerator", run: Path, step: int, keep: int) -> None:
    """Save model, optimizer and averages after ``step`` steps; keep the newest ``keep``."""
    folder = run / CHECKPOINT_FOLDER
    target = folder / f"{_PREFIX}{step:08d}"
    # Every process writes its own random state, so all need the same folder name.
    scratch = folder / f".{target.name}"
    if accelerator.is_main_process:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(scratch))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        scratch.rename(target)
        for old in _complete(run)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def newest_checkpoint(run: Path) -> tuple[Path, int] | None:
    """The newest complete checkpoint of a run and its step."""
    found = _complete(run)
    if not found:
        return None
    return found[-1], int(found[-1].name.removeprefix(_PREFIX))


def load_checkpoint(accelerator: "Accelerator", checkpoint: Path) -> None:
    """Put a checkpoint's state into everything that the accelerator prepared.

    Raises:
        UserError: it does not fit the recipe's model.
    """
    try:
        accelerator.load_state(str(checkpoint))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{checkpoint} does not fit this recipe's model: resume with the recipe it came from"
        ) from error


def _complete(run: Path) -> list[Path]:
    return sorted((run / CHECKPOINT_FOLDER).glob(f"{_PREFIX}*"))
