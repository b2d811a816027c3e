"""Training runs in processes of their own, side by side, watched through their metrics."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from revt_hf.config.recipe import Recipe
from revt_hf.core.child import Child
from revt_hf.core.errors import UserError, printable
from revt_hf.core.outputs import locked, write_text
from revt_hf.core.resources import core_count
from revt_hf.experiments.devices import gpu_variable, least_used, visible_gpus
from revt_hf.models.recorded import read_metrics
from revt_hf.training.run_folder import training_folder

_POLL_SECONDS = 0.5
_SIGNALLED = 128
_HERE = (sys.executable, "-m", "revt_hf.cli.main")


@dataclass(frozen=True)
class Job:
    """A recipe and the folder its result goes to; ``resume`` goes on with what is there."""

    name: str
    recipe: Recipe
    output: Path
    resume: bool = False


@dataclass(frozen=True)
class Finished:
    """A run that ended; ``problem`` is its last word, None if all went well."""

    job: Job
    problem: str | None
    seconds: float


@dataclass
class _Running:
    job: Job
    process: Child
    bar: TaskID
    since: float
    gpu: str | None


def bars(quiet: bool) -> Progress:
    """The progress bars that runs are shown with."""
    # Not through what escapes the control characters of names: bars move the cursor.
    console = Console(file=getattr(sys.stdout, "stream", None))
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
    )


class Trainings:
    """Runs side by side; a context manager that stops what still runs at its end.

    Each run gets one GPU, unless a launcher of the user's decides that.

    Args:
        progress: gets a bar for each run.
        places: so many at a time.
        launcher: what stands before ``train RECIPE --output DIR``.
    """

    def __init__(self, progress: Progress, places: int, launcher: Sequence[str] = _HERE) -> None:
        self._progress = progress
        self._places = places
        self._launcher = launcher
        self._gpus = visible_gpus() if tuple(launcher) == _HERE else []
        self._running: list[_Running] = []

    def __enter__(self) -> "Trainings":
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running:
            running.process.stop()
        for running in self._running:
            running.process.wait()

    @property
    def has_place(self) -> bool:
        """Whether another run can start."""
        return len(self._running) < self._places

    @property
    def busy(self) -> bool:
        """Whether a run is going on."""
        return bool(self._running)

    def start(self, job: Job, sharing: int) -> None:
        """Start a run; its recipe and what it says are kept beside its folder.

        Args:
            job: the run.
            sharing: so many runs share the processor's cores. Small networks use one core each
                better than all of them together.

        Raises:
            UserError: another process trains into the run's folder, or it cannot be written.
        """
        recipe = job.output.with_name(f"{job.output.name}.recipe.yaml")
        # A training that outlived its `revt run` keeps its recipe and log.
        with locked(job.output):
            write_text(recipe, job.recipe.to_yaml())
        what = "--resume" if job.resume else "--overwrite"
        arguments = ["train", str(recipe), "--output", str(job.output), "--quiet", what]
        gpu = least_used(self._gpus, (running.gpu for running in self._running))
        own = {} if gpu is None else {gpu_variable(): gpu}
        environment = {**os.environ, "OMP_NUM_THREADS": _threads(sharing), **own}
        process = Child([*self._launcher, *arguments], _log_of(job), environment)
        bar = self._progress.add_task(
            escape(printable(job.name)), total=job.recipe.train.steps, note=""
        )
        self._running.append(_Running(job, process, bar, time.perf_counter(), gpu))

    def wait(self) -> list[Finished]:
        """Look after the runs for half a second; those that have ended."""
        time.sleep(_POLL_SECONDS)
        ended = []
        for running in list(self._running):
            self._show(running)
            code = running.process.poll()
            if code is None:
                continue
            self._running.remove(running)
            self._progress.remove_task(running.bar)
            problem = _last_words(running, code) if code else None
            ended.append(Finished(running.job, problem, time.perf_counter() - running.since))
        return ended

    def _show(self, running: _Running) -> None:
        losses = [row for row in read_metrics(training_folder(running.job.output)) if "loss" in row]
        if losses:
            values: dict[str, Any] = losses[-1]
            note = f"loss {values['loss']:.3f}"
            self._progress.update(running.bar, completed=values["step"], note=note)


def train_side_by_side(jobs: Sequence[Job], quiet: bool) -> None:
    """Train all jobs at once.

    Raises:
        UserError: a run failed; its message is passed on, the others are stopped.
    """
    with bars(quiet) as progress, Trainings(progress, len(jobs)) as trainings:
        for job in jobs:
            trainings.start(job, len(jobs))
        while trainings.busy:
            for ended in trainings.wait():
                if ended.problem is not None:
                    raise UserError(f"{ended.job.name}: {ended.problem}")


def _threads(sharing: int) -> str:
    """What the user says, else an equal share of the cores."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, core_count() // sharing))


def _log_of(job: Job) -> Path:
    return job.output.with_name(f"{job.output.name}.log")


def _last_words(running: _Running, code: int) -> str:
    """What the run said last: our own sentence, or the end of a traceback."""
    lines = [line for line in running.process.said() if line]
    said = [line for line in lines if line.startswith("error: ")]
    if said:
        return said[-1].removeprefix("error: ")
    end = f"{lines[-1]} ({_log_of(running.job)})" if lines else ""
    if code > _SIGNALLED:
        return f"ended by signal {code - _SIGNALLED}{f' after: {end}' if end else ''}"
    return end or f"ended with exit code {code}"
