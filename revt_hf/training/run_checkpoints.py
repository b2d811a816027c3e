"""Checkpoints of a run in progress: written whole or not at all, the newest whole one found again.

Nothing here imports torch before it is needed: plans look for checkpoints, too.
"""

import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import (
    SCRATCH_PREFIX,
    beside,
    file_sha256,
    folder_state,
    read_json_object,
    readable_os_errors,
    real_path,
    write_json,
)

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

CHECKPOINT_FOLDER = "checkpoints"
MANIFEST_FILE = "checkpoint.json"
# In a run that is trained beside a result: what that looked like.
REPLACES_FILE = f"{SCRATCH_PREFIX}replaces"
_NAME = re.compile(r"step-(\d{8,15})")
_FORMAT = "revt_hf.checkpoint/1"
_MODEL, _OPTIMIZER = "model.safetensors", "optimizer.pt"
_log = logging.getLogger("revt_hf")


class Stateful(Protocol):
    """What can be saved and go on from there."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from such a state."""


@dataclass(frozen=True)
class TrainingState:
    """What goes into a checkpoint; random numbers are functions of the step.

    Attributes:
        model: the network, not wrapped.
        optimizer: its optimizer.
        averages: of weights, by name.
    """

    model: "torch.nn.Module"
    optimizer: "torch.optim.Optimizer"
    averages: Mapping[str, Stateful]


def save_checkpoint(
    accelerator: "Accelerator", state: TrainingState, run: Path, step: int, keep: int
) -> None:
    """Save everything after ``step`` steps; keep the newest ``keep``.

    Raises:
        UserError: it cannot be written; the older ones are still there then.
    """
    from revt_hf.core.processes import failing_together

    with failing_together(accelerator):
        if accelerator.is_main_process:
            _save(state, run / CHECKPOINT_FOLDER, step, keep)


def newest_checkpoint(run: Path) -> tuple[Path, int] | None:
    """The newest checkpoint of a run and its step; whether it is whole is not looked at."""
    return next(iter(reversed(_found(run / CHECKPOINT_FOLDER))), None)


def whole_checkpoint(run: Path) -> tuple[Path, int] | None:
    """The newest checkpoint of a run that is as it was written, and its step.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        UserError: all are damaged; the newest one's damage is named.
    """
    problems: list[str] = []
    for folder, step in reversed(_found(run / CHECKPOINT_FOLDER)):
        problem = _damage(folder, step)
        if problem is None:
            if problems:
                _log.warning("%s: resuming from %s", "; ".join(problems), folder)
            return folder, step
        problems.append(problem)
    if problems:
        raise UserError(
            f"{problems[0]}, and there is no whole checkpoint before it: delete "
            f"{run / CHECKPOINT_FOLDER} to start from the beginning"
        )
    return None


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Put a checkpoint into the model, the optimizer and the averages; nothing is unpickled.

    Raises:
        UserError: a file cannot be read, or does not fit the recipe's model.
    """
    from safetensors.torch import load_file

    targets: dict[str, Stateful] = {_MODEL: state.model, _OPTIMIZER: state.optimizer}
    targets.update({f"{name}.pt": average for name, average in state.averages.items()})
    # All are read before the first is used.
    read = {
        name: _read(folder / name, load_file if name == _MODEL else _plain_values)
        for name in targets
    }
    for name, target in targets.items():
        try:
            target.load_state_dict(read[name])
            if name == _OPTIMIZER:
                _check_moments(state.optimizer)
        # A state of something else can be wrong in any way.
        except Exception as error:
            raise UserError(
                f"{folder / name} does not fit this recipe's model: resume with the recipe it "
                "came from"
            ) from error


def training_folder(run: Path) -> Path:
    """Where a run is trained: its own folder; or, to replace a finished one, a folder beside it.

    One that was to replace something else than what is there now does not count.
    """
    aside = run_beside(run)
    return aside if aside is not None and may_replace(aside, run) else run


def run_beside(run: Path) -> Path | None:
    """The folder of a training that is to replace what is in a run's folder, if there is one."""
    aside = beside(real_path(run), "training")
    return aside if (aside / REPLACES_FILE).is_file() else None


def may_replace(aside: Path, run: Path) -> bool:
    """Whether nothing, or still what a training was to replace, is in the run's folder."""
    try:
        now = folder_state(real_path(run))
        return now is None or now == (aside / REPLACES_FILE).read_text()
    except (OSError, ValueError):
        return False


def _save(state: TrainingState, folder: Path, step: int, keep: int) -> None:
    import torch
    from safetensors.torch import save_file

    target = folder / f"step-{step:08d}"
    scratch = folder / f"{SCRATCH_PREFIX}{target.name}"
    with readable_os_errors(target):
        for left in folder.glob(f"{SCRATCH_PREFIX}*"):
            shutil.rmtree(left)
        scratch.mkdir(parents=True)
        try:
            tensors = {name: part.contiguous() for name, part in state.model.state_dict().items()}
            save_file(tensors, scratch / _MODEL)
            parts: dict[str, Stateful] = {_OPTIMIZER: state.optimizer}
            parts |= {f"{name}.pt": average for name, average in state.averages.items()}
            for name, one in parts.items():
                # Of a file that torch opens itself it does not say why it cannot be written.
                with (scratch / name).open("wb") as file:
                    torch.save(one.state_dict(), file)
            files = {path.name: _stamp(path) for path in sorted(scratch.iterdir())}
            write_json(scratch / MANIFEST_FILE, {"format": _FORMAT, "step": step, "files": files})
            # A damaged one of this step, before which the run was resumed.
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        # Newer ones are damaged, too: they must not push the whole ones out.
        done = [path for path, number in _found(folder) if number <= step]
        for old in done[:-keep]:
            shutil.rmtree(old)


def _found(folder: Path) -> list[tuple[Path, int]]:
    """Checkpoints and their steps, oldest first; other names are nobody's business."""
    if not folder.is_dir():
        return []
    named = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    found = [(path, int(match[1])) for path, match in named if match and path.is_dir()]
    return sorted(found, key=lambda one: one[1])


def _stamp(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}


def _damage(folder: Path, step: int) -> str | None:
    """What is wrong with a checkpoint, by file; None if it is as it was written."""
    path = folder / MANIFEST_FILE
    try:
        manifest = read_json_object(path)
        if manifest.get("format") != _FORMAT or manifest.get("step") != step:
            return f"{path} is not that of this checkpoint"
        files = {str(name): (one["size"], one["sha256"]) for name, one in manifest["files"].items()}
        for other in sorted(folder.iterdir()):
            if other.name not in (*files, MANIFEST_FILE) and not other.name.startswith("."):
                return f"{other} does not belong to this checkpoint"
        for name, (size, digest) in files.items():
            file = folder / Path(name).name
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != size:
                return f"{file} has {file.stat().st_size} bytes instead of {size}"
            if file_sha256(file) != digest:
                return f"{file} is damaged"
    except UserError as error:
        return str(error)
    except (KeyError, TypeError, AttributeError):
        return f"{path} is not a checkpoint's"
    except OSError as error:
        return f"cannot read {folder}: {error.strerror or error}"
    return None


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    # Damage shows in any part of the reader, with an error class of its own.
    except Exception as error:
        raise UserError(f"{path} cannot be read as a part of a checkpoint") from error


def _plain_values(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _check_moments(optimizer: "torch.optim.Optimizer") -> None:
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].shape != parameter.shape:
                raise ValueError(f"{name} has another shape")
