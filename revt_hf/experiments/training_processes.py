"""Training runs in processes of their own, side by side, watched through their metrics."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from revt_hf.core.errors import UserError, counted, printable
from revt_hf.core.output_folders import locked
from revt_hf.core.outputs import write_text
from revt_hf.core.resources import Child, core_count
from revt_hf.models.recorded import read_metrics
from revt_hf.training.run_folder import refit_run, training_folder

_POLL_SECONDS = 0.5
_log = logging.getLogger(__name__)
_SIGNALLED = 128
REVT = ("-m", "revt_hf.cli.main")
_HERE = (sys.executable, *REVT)


@dataclass(frozen=True)
class TrainingJob:
    """A recipe to train into a folder, resuming what is there or starting over.

    With ``model`` only the head is trained, that of this model.
    """

    name: str
    recipe: Recipe
    output: Path
    resume: bool = False
    model: str | None = None

    @property
    def run(self) -> Path:
        return self.output if self.model is None else refit_run(self.output)

    def command(self, recipe: Path) -> list[str]:
        mode = ["--quiet", "--resume" if self.resume else "--overwrite"]
        if self.model is None:
            return ["train", str(recipe), "--output", str(self.output), *mode]
        steps = ["--steps", str(self.recipe.train.steps), "--skip-val"]
        what = [self.model, "--recipe", str(recipe), *steps]
        return ["refit", *what, "--output", str(self.output), *mode]

    @property
    def log(self) -> Path:
        return self.output.with_name(f"{self.output.name}.log")


@dataclass
class _Running:
    job: TrainingJob
    process: Child
    bar: TaskID
    since: float
    gpu: str | None


def progress_bars(quiet: bool) -> Progress:
    # Not through the stream that escapes control characters of names: bars move the cursor.
    console = Console(file=getattr(sys.stdout, "stream", None))
    texts = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}")]
    times = [TimeElapsedColumn(), TimeRemainingColumn()]
    return Progress(*texts, *times, console=console, disable=quiet)


class TrainingProcesses:
    """Runs side by side; a context manager that stops what still runs at its end.

    Each run gets one GPU, unless the user's launcher decides that.
    """

    def __init__(self, progress: Progress, launcher: Sequence[str] = _HERE) -> None:
        self.running: list[_Running] = []
        self._progress = progress
        self._launcher = launcher
        self._gpus = visible_gpus() if tuple(launcher) == _HERE else []

    def __enter__(self) -> "TrainingProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        for running in self.running:
            running.process.stop()
        for running in self.running:
            running.process.wait()

    def start(self, job: TrainingJob, sharing: int) -> None:
        """Start a run that shares the cores with others; recipe and log lie beside its folder."""
        recipe = job.output.with_name(f"{job.output.name}.recipe.yaml")
        # A training that outlived its `revt run` keeps its recipe and log.
        with locked(job.output):
            write_text(recipe, job.recipe.to_yaml())
        command = [*self._launcher, *job.command(recipe)]
        used = [running.gpu for running in self.running]
        gpu = min(self._gpus, key=used.count, default=None)
        # Small networks make better use of one core each than of all of them together.
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, core_count() // sharing))
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        if gpu is not None:
            environment[gpu_variable()] = gpu
        process = Child(command, job.log, environment)
        name, total = escape(printable(job.name)), job.recipe.train.steps
        bar = self._progress.add_task(name, total=total, note="")
        self.running.append(_Running(job, process, bar, time.perf_counter(), gpu))

    def wait(self) -> list[tuple[str, str | None, float]]:
        """Watch the runs for half a second: name, problem and seconds of those that have ended."""
        ended = []
        time.sleep(_POLL_SECONDS)
        for running in list(self.running):
            metrics = read_metrics(training_folder(running.job.run))
            for row in [row for row in metrics if "loss" in row][-1:]:
                note = f"loss {row['loss']:.3f}"
                self._progress.update(running.bar, completed=row["step"], note=note)
            code = running.process.poll()
            if code is not None:
                self.running.remove(running)
                self._progress.remove_task(running.bar)
                problem = _problem(running, code) if code else None
                ended.append((running.job.name, problem, time.perf_counter() - running.since))
        return ended


def train_side_by_side(jobs: Sequence[TrainingJob], quiet: bool) -> None:
    with progress_bars(quiet) as progress, TrainingProcesses(progress) as trainings:
        for job in jobs:
            trainings.start(job, len(jobs))
        while trainings.running:
            for name, problem, _ in trainings.wait():
                if problem is not None:
                    raise UserError(f"{name}: {problem}")


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process sees, for :func:`gpu_variable`; empty on a CPU."""
    import torch

    if _cpu_only() or not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    listed = os.environ.get(gpu_variable())
    # Names that are set already (numbers, GPU-... or MIG-...) are passed on as they are.
    names = [name.strip() for name in listed.split(",")] if listed else [*map(str, range(count))]
    # A process sees one part of a GPU (MIG), however many it may use.
    return names if all(name.startswith("MIG-") for name in names) else names[:count]


def gpu_variable() -> str:
    """The environment variable that limits a process to some GPUs."""
    import torch

    # ROCm reads both, its own first.
    hip, cuda = "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
    return hip if hip in os.environ or (torch.version.hip and cuda not in os.environ) else cuda


def training_slots(jobs: int | None, launcher: str | None) -> int:
    """How many trainings run side by side: ``jobs``, else one per GPU, or per core without a GPU.

    With a launcher, which decides itself what a training runs on, one if there is a GPU.
    """
    import torch

    gpus = [] if launcher else visible_gpus()
    if jobs is not None:
        if 0 < len(gpus) < jobs:
            _log.info("--jobs %d: trainings share %s", jobs, counted(len(gpus), "GPU"))
        return jobs
    if _cpu_only() or not torch.accelerator.is_available():
        return core_count()
    return max(1, len(gpus))


def _cpu_only() -> bool:
    from accelerate.utils import parse_flag_from_env

    return bool(parse_flag_from_env("ACCELERATE_USE_CPU"))


def _problem(running: _Running, code: int) -> str:
    lines = [line for line in running.process.said() if line]
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    end = f"{lines[-1]} ({running.job.log})" if lines else ""
    if code > _SIGNALLED:
        return f"ended by signal {code - _SIGNALLED}{f' after: {end}' if end else ''}"
    return end or f"ended with exit code {code}"
