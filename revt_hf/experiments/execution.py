"""Running an experiment: what is done is kept, and a failure stops only what depends on it."""

import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress
from rich.text import Text
from rich.tree import Tree

from revt_hf.core.errors import UserError
from revt_hf.experiments.experiment_folder import ExperimentFolder, Status, Step
from revt_hf.experiments.experiment_recipe import load_experiment
from revt_hf.experiments.graph import build_graph
from revt_hf.experiments.steps import Score, Train
from revt_hf.experiments.training_processes import (
    REVT,
    TrainingProcesses,
    progress_bars,
    training_slots,
)

# How a state is printed, and its style.
_STATES = {
    "done": ("done", "green"),
    "stale": ("to do again: its inputs changed", "yellow"),
    "begun": ("begun", "cyan"),
    "missing": ("to do", "dim"),
}


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
    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

    def problem(self) -> str | None:
        """One sentence on the failures; None if there are none."""
        total = len(self.done) + len(self.kept) + len(self.failed) + len(self.blocked)
        if not self.failed:
            needs = ", ".join(sorted(set(self.blocked.values())))
            sentence = f"{len(self.blocked)} of {total} steps need what is not done: {needs}"
            return sentence if needs else None
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
    folder = ExperimentFolder(Path(output), graph.steps)
    launcher = [*(_launcher_words(options.launcher) or [sys.executable]), *REVT]
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
        from revt_hf.experiments.experiment_results import write_outputs

        outcome.written = write_outputs(graph, folder, Path(path).stem, options.quiet)
    return outcome


def plan_experiment(
    path: str | Path,
    output: str | Path,
    overrides: Sequence[str] = (),
    options: ExperimentOptions | None = None,
) -> tuple[Tree, list[dict[str, Any]]]:
    """The steps that :func:`run_experiment` would look at, with their states; writes nothing."""
    options = options or ExperimentOptions()
    graph = build_graph(load_experiment(path, overrides))
    steps = graph.chosen(options.only, options.needs)
    folder = ExperimentFolder(Path(output), graph.steps)
    return step_tree(graph.experiment.title, steps, folder), step_rows(steps, folder)


def _launcher_words(launcher: str | None) -> list[str]:
    try:
        words = shlex.split(launcher or "")
    except ValueError as error:
        raise UserError(f"--launcher {launcher}: {str(error).lower()}") from error
    if words and shutil.which(words[0]) is None:
        raise UserError(f"--launcher {launcher}: there is no program '{words[0]}'")
    return words


@dataclass
class _Execution:
    """Walks the graph: trainings side by side as they become ready, everything else in order."""

    steps: Sequence[Step]
    folder: ExperimentFolder
    options: ExperimentOptions
    launcher: Sequence[str]
    progress: Progress
    outcome: Outcome

    def __post_init__(self) -> None:
        self._pending = {step.id: step for step in self.steps}
        self._bar = self.progress.add_task("all steps", total=len(self.steps), note="")
        # Of the trainings that are running.
        self._locks: dict[str, ExitStack] = {}

    def run(self) -> None:
        while ready := self._ready():
            if isinstance(ready[0], Train):
                self._train()
            else:
                self._work(ready[0].companions(ready, self.folder))

    def _ready(self) -> list[Step]:
        """The pending steps whose inputs are done; those that are done or blocked are settled."""
        ready = []
        for step in list(self._pending.values()):
            if any(one in self._pending for one in step.inputs):
                continue
            missing = [one for one in step.inputs if not self.folder.done(one)]
            if step.id not in self._locks and self.folder.done(step.id):
                step.update_labels(self.folder)
                self.outcome.kept.append(step.id)
                self._settle(step)
            elif step.id not in self._locks and missing:
                self.outcome.blocked[step.id] = missing[0]
                self._settle(step)
            else:
                ready.append(step)
        return ready

    def _train(self) -> None:
        slots = training_slots(self.options.slots, self.options.launcher)
        with TrainingProcesses(self.progress, self.launcher) as trainings:
            while ready := [step for step in self._ready() if isinstance(step, Train)]:
                for step in ready:
                    if step.id not in self._locks and len(trainings.running) < slots:
                        self._start(step, trainings, sharing=min(slots, len(ready)))
                for name, problem, seconds in trainings.wait() if trainings.running else ():
                    with self._locks.pop(name):
                        self._end(self._pending[name], seconds, problem)

    def _start(self, step: Train, trainings: TrainingProcesses, sharing: int) -> None:
        try:
            with ExitStack() as lock:
                lock.enter_context(self.folder.locked(step))
                self.folder.check_data(step)
                trainings.start(step.job(self.folder), sharing)
                self._locks[step.id] = lock.pop_all()
        except UserError as error:
            self._end(step, problem=str(error))

    def _work(self, steps: Sequence[Step]) -> None:
        first, since = steps[0], time.perf_counter()
        name = first.id if len(steps) == 1 else f"{first.stage} {len(steps)} networks"
        try:
            with ExitStack() as stack:
                for step in steps:
                    stack.enter_context(self.folder.locked(step))
                self.folder.check_data(first)
                total = self.folder.image_count(first) if isinstance(first, Score) else None
                bar = self.progress.add_task(name, total=total, note="")
                stack.callback(self.progress.remove_task, bar)
                first.run_together(steps, self.folder, lambda: self.progress.advance(bar))
                seconds = (time.perf_counter() - since) / len(steps)
                for step in steps:
                    self._end(step, seconds)
        except UserError as error:
            for step in steps:
                self._end(step, problem=str(error))

    def _end(self, step: Step, seconds: float = 0, problem: str | None = None) -> None:
        """Record that a step is done, or why it failed."""
        try:
            if problem is None:
                self.folder.finish(step, seconds)
                self.outcome.done.append(step.id)
        except UserError as error:
            problem = str(error)
        if problem is not None:
            self.outcome.failed[step.id] = problem
            if not self.options.quiet:
                self.progress.console.print(f"failed: {step.id}: {problem}", markup=False)
        self._settle(step)

    def _settle(self, step: Step) -> None:
        del self._pending[step.id]
        self.progress.advance(self._bar)


def step_tree(title: str, steps: Sequence[Step], folder: ExperimentFolder) -> Tree:
    """The steps in the folders of their results, each with its state; then the totals."""
    tree = Tree(Text(f"{title} ({folder.path})"))
    branches: dict[str, Tree] = {"": tree}

    def branch(path: str) -> Tree:
        if path not in branches:
            parent, _, name = path.rpartition("/")
            branches[path] = branch(parent).add(Text(name))
        return branches[path]

    statuses = [folder.status(step.id) for step in steps]
    for step, status in zip(steps, statuses, strict=True):
        parent, _, name = step.id.rpartition("/")
        note = f": {status.note}" if status.state == "begun" else ""
        words, style = _STATES[status.state]
        branch(parent).add(Text.assemble(name, "  ", (words + note, style)))
    counts = Counter(status.state for status in statuses)
    totals = ", ".join(f"{count} {state}" for state, count in counts.items())
    tree.add(Text(f"{len(steps)} steps: {totals}", style="bold"))
    for note, count in lacking_data(statuses).items():
        tree.add(Text(f"{count} steps lack their data: {note}", style="red"))
    return tree


def step_rows(steps: Sequence[Step], folder: ExperimentFolder) -> list[dict[str, Any]]:
    """The state, note and inputs of each step, and the seconds it took if it is done."""
    rows = []
    for step in steps:
        status, record = folder.status(step.id), folder.record(step)
        row = {"step": step.id, **asdict(status), "needs": list(step.inputs)}
        rows.append(row | {"seconds": record.seconds if record else None})
    return rows


def lacking_data(statuses: Sequence[Status]) -> Counter[str]:
    """How many steps lack their data, by the reason."""
    return Counter(one.note for one in statuses if one.note and one.state != "begun")
