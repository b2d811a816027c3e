"""Training runs in processes of their own, side by side, watched through their metrics."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from revt_hf.errors import UserError
from revt_hf.recipe import Recipe
from revt_hf.training.tracking import read_metrics

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """A recipe and the folder its result goes to."""

    name: str
    recipe: Recipe
    output: Path


def train_side_by_side(jobs: Sequence[Job], quiet: bool) -> None:
    """Train all jobs at once, the processor's cores shared out among them.

    Small networks use one core each better than all of them together.

    Raises:
        UserError: a run failed; its message is passed on, the others are stopped.
    """
    running = [(job, _start(job, _threads(len(jobs)))) for job in jobs]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, disable=quiet) as progress:
            bars = {
                job.name: progress.add_task(job.name, total=job.recipe.train.steps, loss="")
                for job in jobs
            }
            while any(process.poll() is None for _, process in running):
                time.sleep(_POLL_SECONDS)
                for job, process in running:
                    if process.poll():
                        raise UserError(f"{job.name}: {_last_words(process)}")
                    _show(progress, bars[job.name], job)
        for job, process in running:
            if process.returncode:
                raise UserError(f"{job.name}: {_last_words(process)}")
    finally:
        for _, process in running:
            process.kill()
            process.communicate()


def _threads(jobs: int) -> str:
    """What the user says, else an equal share of the cores."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))


def _start(job: Job, threads: str) -> "subprocess.Popen[str]":
    recipe = job.output.with_name(f"{job.output.name}.recipe.yaml")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(job.recipe.to_yaml())
    arguments = ["train", str(recipe), "--output", str(job.output), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    return subprocess.Popen(
        [sys.executable, "-m", "revt_hf.cli", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _show(progress: Progress, bar: TaskID, job: Job) -> None:
    losses = [row for row in read_metrics(job.output) if "loss" in row]
    if losses:
        progress.update(bar, completed=losses[-1]["step"], loss=f"loss {losses[-1]['loss']:.3f}")


def _last_words(process: "subprocess.Popen[str]") -> str:
    lines = (process.communicate()[1] or "").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"ended with {process.returncode}"
