"""Running an experiment: what is done is kept, and a failure stops only what depends on it."""

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress
from rich.tree import Tree

from revt_hf.core.errors import UserError
from revt_hf.experiments.build_graph import build_graph
from revt_hf.experiments.experiment_folder import ExperimentFolder, Step
from revt_hf.experiments.experiment_recipe import load_experiment
from revt_hf.experiments.model_steps import Train
from revt_hf.experiments.step_overview import step_rows, step_tree
from revt_hf.experiments.training_processes import (
    REVT,
    TrainingProcesses,
    default_slots,
    progress_bars,
)


@dataclass(frozen=True)
class ExperimentOptions:
    """Which steps of an experiment to run, and how; none of it changes a result.

    Attributes:
        only: ids of steps with ``*``, or folders of steps; empty for all.
        needs: also run what these need.
        report_only: run nothing, only write the tables and the report of what is done.
        slots: trainings side by side; None for one per GPU, or one per core without a GPU.
        launcher: for trainings, such as ``accelerate launch --config_file F``.
        quiet: no progress bars and no table.
    """

    only: tuple[str, ...] = ()
    needs: bool = True
    report_only: bool = False
    slots: int | None = None
    launcher: str | None = None
    quiet: bool = False


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        done: ids of steps that were run.
        kept: ids of steps that were done before.
        failed: reasons by step.
        blocked: steps that could not run, each with an input that is not done.
        steps: the state of each chosen step afterwards, as JSON values.
        written: tables and report.
    """

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

    def problem(self) -> str | None:
        """One sentence on the failures; None if there are none."""
        if not self.failed and not self.blocked:
            return None
        total = len(self.done) + len(self.kept) + len(self.failed) + len(self.blocked)
        if not self.failed:
            needs = ", ".join(sorted(set(self.blocked.values())))
            return f"{len(self.blocked)} of {total} steps need what is not done: {needs}"
        # Steps that failed for the same reason are listed once.
        steps: dict[str, list[str]] = {}
        for step, why in self.failed.items():
            steps.setdefault(why, []).append(step)
        parts = [
            f"{first} and {len(others)} more: {why}" if others else f"{first}: {why}"
            for why, (first, *others) in steps.items()
        ]
        if self.blocked:
            parts.append(f"{len(self.blocked)} more need them")
        return f"{len(self.failed)} of {total} steps failed: {'; '.join(parts)}"


def run_experiment(
    path: str | Path,
    output: str | Path,
    overrides: Sequence[str] = (),
    options: ExperimentOptions | None = None,
) -> Outcome:
    """Run the steps of an experiment that are not done, then write its tables and report.

    Steps that fail are listed in the outcome; the others are done. With ``only`` no table is
    written, so that such runs can work side by side.

    Args:
        path: the experiment (YAML).
        output: its folder, created if necessary.
        overrides: ``a.b=c`` strings.
        options: see :class:`ExperimentOptions`.

    Raises:
        UserError: the experiment, an option or the folder cannot be used.
    """
    options = options or ExperimentOptions()
    graph = build_graph(load_experiment(path, overrides))
    if options.report_only and options.only:
        raise UserError("--report-only runs no step: leave --only out")
    steps = graph.chosen(options.only, options.needs)
    launcher = launcher_words(options.launcher)
    folder = ExperimentFolder(Path(output), graph.steps)
    folder.check(graph.data_dirs)
    outcome = Outcome()
    if not options.report_only:
        folder.begin()
        with progress_bars(options.quiet) as progress:
            _Execution(steps, folder, options, launcher, progress, outcome).run()
    # Other processes may have finished steps meanwhile.
    folder = ExperimentFolder(Path(output), graph.steps)
    outcome.steps = step_rows(steps, folder)
    if not options.only:
        from revt_hf.experiments.experiment_report import write_outputs

        outcome.written = write_outputs(graph, folder, Path(path).stem, options.quiet)
    return outcome


def plan_experiment(
    path: str | Path,
    output: str | Path,
    overrides: Sequence[str] = (),
    options: ExperimentOptions | None = None,
) -> tuple[Tree, list[dict[str, Any]]]:
    """The steps that :func:`run_experiment` would look at, with their states; writes nothing.

    Returns:
        A tree to print, and the steps as JSON values.

    Raises:
        UserError: the experiment or an option cannot be used.
    """
    experiment = load_experiment(path, overrides)
    graph = build_graph(experiment)
    options = options or ExperimentOptions()
    steps = graph.chosen(options.only, options.needs)
    folder = ExperimentFolder(Path(output), graph.steps)
    return step_tree(experiment.title, steps, folder), step_rows(steps, folder)


def launcher_words(launcher: str | None) -> list[str]:
    """A launcher's program and arguments; empty without one.

    Raises:
        UserError: its quotes do not match, or there is no such program.
    """
    try:
        words = shlex.split(launcher or "")
    except ValueError as error:
        raise UserError(f"--launcher {launcher}: {str(error).lower()}") from error
    if words and shutil.which(words[0]) is None:
        raise UserError(f"--launcher {launcher}: there is no program '{words[0]}'")
    return words


class _Execution:
    """Walks the graph: trainings side by side as they become ready, everything else in order."""

    def __init__(
        self,
        steps: Sequence[Step],
        folder: ExperimentFolder,
        options: ExperimentOptions,
        launcher: Sequence[str],
        progress: Progress,
        outcome: Outcome,
    ) -> None:
        self._pending = {step.id: step for step in steps}
        self._folder = folder
        self._options = options
        self._launcher = [*(launcher or [sys.executable]), *REVT]
        self._progress = progress
        self._outcome = outcome
        self._bar = progress.add_task("all steps", total=len(steps), note="")
        # Of the trainings that are running.
        self._locks: dict[str, ExitStack] = {}

    def run(self) -> None:
        while ready := self._ready():
            if isinstance(ready[0], Train):
                self._train()
            else:
                self._work(ready[0].companions(ready, self._folder))

    def _ready(self) -> list[Step]:
        """The pending steps whose inputs are done; those that are done or blocked are settled."""
        ready = []
        for step in list(self._pending.values()):
            if any(one in self._pending for one in step.inputs):
                continue
            missing = [one for one in step.inputs if not self._folder.done(one)]
            if step.id in self._locks:
                ready.append(step)
            elif self._folder.done(step.id):
                step.update_labels(self._folder)
                self._outcome.kept.append(step.id)
                self._settle(step)
            elif missing:
                self._outcome.blocked[step.id] = missing[0]
                self._settle(step)
            else:
                ready.append(step)
        return ready

    def _train(self) -> None:
        """Train everything that is ready or becomes ready meanwhile."""
        slots = self._options.slots or default_slots(self._options.launcher)
        with TrainingProcesses(self._progress, slots, self._launcher) as trainings:
            while ready := [step for step in self._ready() if isinstance(step, Train)]:
                for step in ready:
                    if step.id not in self._locks and trainings.has_slot:
                        self._start(step, trainings, sharing=min(slots, len(ready)))
                for ended in trainings.wait() if trainings.busy else []:
                    finished = self._pending[ended.job.name]
                    with self._locks.pop(finished.id):
                        if ended.problem is None:
                            self._finish(finished, ended.seconds)
                        else:
                            self._fail(finished, ended.problem)

    def _start(self, step: Train, trainings: TrainingProcesses, sharing: int) -> None:
        try:
            with ExitStack() as lock:
                lock.enter_context(self._folder.locked(step))
                self._check_data(step)
                trainings.start(step.job(self._folder), sharing)
                self._locks[step.id] = lock.pop_all()
        except UserError as error:
            self._fail(step, str(error))

    def _work(self, steps: Sequence[Step]) -> None:
        """Run steps together in this process."""
        first, since = steps[0], time.perf_counter()
        name = first.id if len(steps) == 1 else f"{first.stage} {len(steps)} networks"
        try:
            with ExitStack() as stack:
                for step in steps:
                    stack.enter_context(self._folder.locked(step))
                self._check_data(first)
                total = self._folder.image_count(first) if first.counts_images else None
                bar = self._progress.add_task(name, total=total, note="")
                stack.callback(self._progress.remove_task, bar)
                first.run_together(steps, self._folder, lambda: self._progress.advance(bar))
                seconds = (time.perf_counter() - since) / len(steps)
                for step in steps:
                    self._finish(step, seconds)
        except UserError as error:
            for step in steps:
                self._fail(step, str(error))

    def _check_data(self, step: Step) -> None:
        missing = self._folder.missing_data(step)
        if missing is not None:
            raise UserError(missing)

    def _finish(self, step: Step, seconds: float) -> None:
        try:
            self._folder.finish(step, seconds)
        except UserError as error:
            self._fail(step, str(error))
            return
        self._outcome.done.append(step.id)
        self._settle(step)

    def _fail(self, step: Step, why: str) -> None:
        self._outcome.failed[step.id] = why
        self._settle(step)
        if not self._options.quiet:
            self._progress.console.print(f"failed: {step.id}: {why}", markup=False)

    def _settle(self, step: Step) -> None:
        del self._pending[step.id]
        self._progress.advance(self._bar)
