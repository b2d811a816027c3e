"""The folder of a run: its checkpoints, and how it replaces an older result.

Nothing here imports torch before it is needed: plans of experiments look at run folders, too.
"""

import logging
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import ValidationError

from revt_hf.checkpoints.tensors import ADAPTER, ADAPTER_FILES, AVERAGES, RECIPE_FILE, WEIGHTS_FILE
from revt_hf.config.recipe import Recipe
from revt_hf.config.yaml_files import Section
from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.output_folders import (
    SCRATCH_PREFIX,
    beside,
    folder_state,
    mark_output,
    real_path,
    replace_folder,
)
from revt_hf.core.outputs import (
    check_apart,
    check_output,
    file_sha256,
    read_json_object,
    write_json,
)
from revt_hf.models.recorded import METRICS_FILE, recorded_recipe

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful

RUN_FILE = "run.json"
TRACKER_PROJECT = "revt_hf"
MODEL, OPTIMIZER = WEIGHTS_FILE, "optimizer.pt"
_CHECKPOINTS, _MANIFEST_FILE = "checkpoints", "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,15})")
# In a run that trains beside an older result: the state of that result.
_REPLACES_FILE = f"{SCRATCH_PREFIX}replaces"
_MODEL_FILES = (WEIGHTS_FILE, "config.json", "preprocessor_config.json", RECIPE_FILE)
_WRITTEN = (
    *_MODEL_FILES,
    *(f"{name}/{file}" for name in AVERAGES for file in (*_MODEL_FILES, "window.json")),
    *(f"{ADAPTER}/{file}" for file in (*ADAPTER_FILES, *_MODEL_FILES[1:])),
    METRICS_FILE,
    RUN_FILE,
    f"{_CHECKPOINTS}/step-*",
    # Trackers that write files.
    f"{TRACKER_PROJECT}/*",
)
# The parts of a checkpoint, by file name.
State: TypeAlias = Mapping[str, "Stateful"]
_log = logging.getLogger("revt_hf")


class _Stamp(Section):
    size: int
    sha256: str


class _Manifest(Section):
    format: Literal["revt_hf.checkpoint/1"] = "revt_hf.checkpoint/1"
    step: int
    files: dict[str, _Stamp]


def newest_checkpoint(run: Path) -> tuple[Path, int] | None:
    """The newest checkpoint of a run, damaged or not, and its step."""
    return next(iter(_newest_first(run)), None)


def whole_checkpoint(run: Path) -> tuple[Path, int] | None:
    """The newest undamaged checkpoint of a run and its step; None if there is no checkpoint."""
    problems: list[str] = []
    for folder, step in _newest_first(run):
        problem = _damage(folder, step)
        if problem is None:
            if problems:
                _log.warning("%s: resuming from %s", "; ".join(problems), folder)
            return folder, step
        problems.append(problem)
    if problems:
        raise UserError(
            f"{problems[0]}, and there is no whole checkpoint before it: delete "
            f"{run / _CHECKPOINTS} to start from the beginning"
        )
    return None


def load_checkpoint(folder: Path, state: State) -> None:
    """Restore parts by file name; nothing is unpickled."""
    import torch
    from safetensors.torch import load_file

    load = partial(torch.load, map_location="cpu", weights_only=True)
    # All are read before the first is used.
    read: dict[str, Any] = {}
    for name in state:
        path = folder / name
        try:
            read[name] = load_file(path) if name == MODEL else load(path)
        # Damage surfaces anywhere in the reader, with error classes of its own.
        except Exception as error:
            raise UserError(f"{path} cannot be read as a part of a checkpoint") from error
    for name, target in state.items():
        try:
            target.load_state_dict(read[name])
            if isinstance(target, torch.optim.Optimizer):
                for parameter, moments in target.state.items():
                    shapes = {moments[moment].shape for moment in ("exp_avg", "exp_avg_sq")}
                    if shapes != {parameter.shape}:
                        raise ValueError("a moment has another shape")
        # A foreign state can be wrong in any way.
        except Exception as error:
            raise UserError(
                f"{folder / name} does not fit this recipe's model: resume with the recipe it "
                "came from"
            ) from error


def save_checkpoint(state: State, run: Path, step: int, keep: int) -> None:
    """Save parts by file name after ``step`` steps; keep the newest ``keep`` checkpoints."""
    import torch
    from safetensors.torch import save_file

    folder = run / _CHECKPOINTS
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
            files = {
                path.name: _Stamp(size=path.stat().st_size, sha256=file_sha256(path))
                for path in sorted(scratch.iterdir())
            }
            write_json(scratch / _MANIFEST_FILE, _Manifest(step=step, files=files).model_dump())
            # A damaged one of this step, if the run was resumed from before it.
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        # Newer ones are damaged: they must not displace the whole ones.
        done = [path for path, number in _newest_first(run) if number <= step]
        for old in done[keep:]:
            shutil.rmtree(old)


def _newest_first(run: Path) -> list[tuple[Path, int]]:
    """The checkpoints of a run, damaged or not, and their steps."""
    folder = run / _CHECKPOINTS
    paths = folder.iterdir() if folder.is_dir() else ()
    named = [(path, _NAME.fullmatch(path.name)) for path in paths]
    found = [(path, int(match[1])) for path, match in named if match and path.is_dir()]
    return sorted(found, key=lambda one: one[1], reverse=True)


def _damage(folder: Path, step: int) -> str | None:
    """A sentence naming the damaged file of a checkpoint; None if all are as they were written."""
    path = folder / _MANIFEST_FILE
    try:
        manifest = _Manifest.model_validate(read_json_object(path))
        if manifest.step != step:
            return f"{path} belongs to another checkpoint"
        known = (*manifest.files, _MANIFEST_FILE)
        for other in sorted(folder.iterdir()):
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
    """Where a run trains: in its own folder or, to replace the current result, in one beside it."""
    aside = _run_beside(run)
    return aside if aside is not None and _may_replace(aside, run) else run


def refit_run(output: Path) -> Path:
    """The hidden run that trains the head of a refit model."""
    return beside(real_path(output), "refit") / real_path(output).name


def is_finished(run: Path) -> bool:
    """Whether the run that ``--resume`` would continue has its final weights, saved last."""
    return (training_folder(run) / WEIGHTS_FILE).exists()


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
