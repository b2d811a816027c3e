"""Checkpoints of a run in progress: written whole or not at all, read without unpickling.

Nothing here imports torch before it is needed: plans of experiments look for checkpoints, too.
"""

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import ValidationError

from revt_hf.config.yaml_files import Section
from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.output_folders import SCRATCH_PREFIX
from revt_hf.core.outputs import file_sha256, read_json_object, write_json

if TYPE_CHECKING:
    import torch

CHECKPOINT_FOLDER = "checkpoints"
_MANIFEST_FILE = "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,15})")
MODEL, OPTIMIZER = "model.safetensors", "optimizer.pt"
_log = logging.getLogger("revt_hf")


class Stateful(Protocol):
    """An object whose state, tensors and plain values, can be saved and restored."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


class _Stamp(Section):
    size: int
    sha256: str


class _Manifest(Section):
    """``checkpoint.json``."""

    format: Literal["revt_hf.checkpoint/1"] = "revt_hf.checkpoint/1"
    step: int
    files: dict[str, _Stamp]


def newest_checkpoint(run: Path) -> tuple[Path, int] | None:
    """The newest checkpoint of a run, damaged or not, and its step."""
    return next(iter(reversed(_found(run / CHECKPOINT_FOLDER))), None)


def whole_checkpoint(run: Path) -> tuple[Path, int] | None:
    """The newest undamaged checkpoint of a run and its step; None if there is no checkpoint."""
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


def load_checkpoint(folder: Path, state: Mapping[str, Stateful]) -> None:
    """Restore parts by file name; nothing is unpickled."""
    import torch
    from safetensors.torch import load_file

    # All are read before the first is used.
    read: dict[str, Any] = {}
    for name in state:
        path = folder / name
        try:
            read[name] = (
                load_file(path)
                if name == MODEL
                else torch.load(path, map_location="cpu", weights_only=True)
            )
        # Damage surfaces anywhere in the reader, with error classes of its own.
        except Exception as error:
            raise UserError(f"{path} cannot be read as a part of a checkpoint") from error
    for name, target in state.items():
        try:
            target.load_state_dict(read[name])
            if isinstance(target, torch.optim.Optimizer):
                _check_moments(target)
        # A foreign state can be wrong in any way.
        except Exception as error:
            raise UserError(
                f"{folder / name} does not fit this recipe's model: resume with the recipe it "
                "came from"
            ) from error


def save_checkpoint(state: Mapping[str, Stateful], run: Path, step: int, keep: int) -> None:
    """Save parts by file name after ``step`` steps; keep the newest ``keep`` checkpoints."""
    import torch
    from safetensors.torch import save_file

    folder = run / CHECKPOINT_FOLDER
    target = folder / f"step-{step:08d}"
    scratch = folder / f"{SCRATCH_PREFIX}{target.name}"
    with readable_os_errors(target):
        for left in folder.glob(f"{SCRATCH_PREFIX}*"):
            shutil.rmtree(left)
        scratch.mkdir(parents=True)
        try:
            for name, part in state.items():
                values = part.state_dict()
                if name == MODEL:
                    tensors = {key: tensor.contiguous() for key, tensor in values.items()}
                    save_file(tensors, scratch / name)
                    continue
                # If torch opens the file itself, its error does not tell why a write failed.
                with (scratch / name).open("wb") as file:
                    torch.save(values, file)
            files = {path.name: _stamp(path) for path in sorted(scratch.iterdir())}
            write_json(scratch / _MANIFEST_FILE, _Manifest(step=step, files=files).model_dump())
            # A damaged one of this step, if the run was resumed from before it.
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        # Newer ones are damaged: they must not displace the whole ones.
        done = [path for path, number in _found(folder) if number <= step]
        for old in done[:-keep]:
            shutil.rmtree(old)


def _found(folder: Path) -> list[tuple[Path, int]]:
    if not folder.is_dir():
        return []
    named = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    found = [(path, int(match[1])) for path, match in named if match and path.is_dir()]
    return sorted(found, key=lambda one: one[1])


def _stamp(path: Path) -> _Stamp:
    return _Stamp(size=path.stat().st_size, sha256=file_sha256(path))


def _damage(folder: Path, step: int) -> str | None:
    """A sentence naming the damaged file of a checkpoint; None if all are as they were written."""
    path = folder / _MANIFEST_FILE
    try:
        manifest = _Manifest.model_validate(read_json_object(path))
        if manifest.step != step:
            return f"{path} belongs to another checkpoint"
        for other in sorted(folder.iterdir()):
            known = (*manifest.files, _MANIFEST_FILE)
            if other.name not in known and not other.name.startswith("."):
                return f"{other} does not belong to this checkpoint"
        for name, stamp in manifest.files.items():
            file = folder / Path(name).name
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != stamp.size:
                return f"{file} has {file.stat().st_size} bytes instead of {stamp.size}"
            if file_sha256(file) != stamp.sha256:
                return f"{file} is damaged"
    except UserError as error:
        return str(error)
    except ValidationError:
        return f"{path} is not the manifest of a checkpoint"
    except OSError as error:
        return f"cannot read {folder}: {error.strerror or error}"
    return None


def _check_moments(optimizer: "torch.optim.Optimizer") -> None:
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].shape != parameter.shape:
                raise ValueError(f"{name} has another shape")
