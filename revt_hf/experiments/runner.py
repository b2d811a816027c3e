"""Carrying out an experiment: what is done stays, what fails stops only what needs it."""

import fnmatch
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.progress import Progress, TaskID

from revt_hf.checkpoints.tensors import RECIPE_FILE
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.experiments.devices import default_slots
from revt_hf.experiments.folder import STEPS_FOLDER, begin_folder
from revt_hf.experiments.graph import (
    Average,
    Choose,
    Given,
    Graph,
    MergeWork,
    Recalibrate,
    Score,
    Step,
    Train,
)
from revt_hf.experiments.jobs import Job, Trainings, bars
from revt_hf.experiments.ledger import Ledger
from revt_hf.experiments.merging import make_merge
from revt_hf.models.recorded import recorded_recipe
from revt_hf.training.run_folder import training_folder


@dataclass(frozen=True)
class HowToRun:
    """How an experiment is carried out; none of it changes a result.

    Attributes:
        only: names of steps with ``*``, of folders of steps; empty for all.
        needs: also do what these need.
        places: trainings side by side; None for one a GPU, or one a core without any.
        launcher: a command line such as ``accelerate launch --config_file F``, for trainings.
        quiet: no progress bars.
    """

    only: tuple[str, ...] = ()
    needs: bool = True
    places: int | None = None
    launcher: str | None = None
    quiet: bool = False


@dataclass
class Outcome:
    """What a run did: steps by what came of them, with the reason for those that failed."""

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    def problem(self) -> str | None:
        """One sentence on what failed, None if nothing did."""
        if not self.failed and not self.blocked:
            return None
        total = len(self.done) + len(self.kept) + len(self.failed) + len(self.blocked)
        parts = [f"{step}: {why}" for step, why in _grouped(self.failed).items()]
        if not self.failed:
            needs = ", ".join(sorted(set(self.blocked.values())))
            return f"{len(self.blocked)} of {total} steps need what is not done: {needs}"
        if self.blocked:
            parts.append(f"{len(self.blocked)} more need them")
        return f"{len(self.failed)} of {total} steps failed: {'; '.join(parts)}"


def chosen_steps(graph: Graph, how: HowToRun) -> list[Step]:
    """The steps to do, in order.

    Raises:
        UserError: a name that fits no step.
    """
    wanted: set[str] = set()
    for pattern in how.only:
        found = [
            step_id
            for step_id in graph.steps
            if fnmatch.fnmatch(step_id, pattern) or step_id.startswith(f"{pattern.rstrip('/')}/")
        ]
        if not found:
            raise UserError(f"--only {pattern}: no step is called so; --dry-run lists them")
        wanted.update(found)
    if not how.only:
        wanted.update(graph.steps)
    if how.needs:
        for step in reversed(_ordered(graph)):
            if step.id in wanted:
                wanted.update(step.needs)
    return [step for step in _ordered(graph) if step.id in wanted]


def launcher_words(launcher: str | None) -> list[str]:
    """A launcher's program and arguments; none without one.

    Raises:
        UserError: its quotes do not fit together, or there is no such program.
    """
    try:
        words = shlex.split(launcher or "")
    except ValueError as error:
        raise UserError(f"--launcher {launcher}: {str(error).lower()}") from error
    if words and shutil.which(words[0]) is None:
        raise UserError(f"--launcher {launcher}: there is no program '{words[0]}'")
    return words


def run_steps(graph: Graph, folder: Path, how: HowToRun) -> Outcome:
    """Do what is not done yet.

    Trainings come first, side by side, then merges, then scores.

    Args:
        graph: of the experiment.
        folder: of the experiment; made if need be.
        how: see :class:`HowToRun`.

    Raises:
        UserError: ``how`` does not fit; steps that fail are in the outcome.
    """
    steps = chosen_steps(graph, how)
    launcher_words(how.launcher)
    begin_folder(graph, folder)
    with bars(how.quiet) as progress:
        return _Run(graph, folder, how, steps, progress).all()


class _Run:
    """One call of :func:`run_steps`."""

    def __init__(
        self, graph: Graph, folder: Path, how: HowToRun, steps: list[Step], progress: Progress
    ) -> None:
        self._graph = graph
        self._folder = folder
        self._how = how
        self._steps = steps
        self._progress = progress
        self._ledger = Ledger(graph, folder)
        self._outcome = Outcome()
        self._bar: TaskID = progress.add_task("all steps", total=len(steps), note="")

    def all(self) -> Outcome:
        self._one_by_one(Given, self._not_there)
        self._train([step for step in self._steps if isinstance(step.work, Train)])
        self._one_by_one(Average, self._not_there)
        self._one_by_one(MergeWork, self._merge)
        self._one_by_one(Recalibrate, self._recalibrate)
        self._score([step for step in self._steps if isinstance(step.work, Score)])
        self._one_by_one(Choose, self._choose)
        return self._outcome

    def _train(self, steps: Sequence[Step]) -> None:
        waiting = self._unfinished(steps)
        if not waiting:
            return
        launcher = launcher_words(self._how.launcher) or [sys.executable]
        places = self._how.places or default_slots(self._how.launcher)
        locks: dict[str, FileLock] = {}
        with Trainings(self._progress, places, [*launcher, "-m", "revt_hf.cli.main"]) as trainings:
            while waiting or trainings.busy:
                could = len(locks) + sum(map(self._needs_done, waiting))
                for step in list(waiting):
                    if not self._ready(step, among=[*waiting, *map(self._step, locks)]):
                        if step.id in self._outcome.blocked:
                            waiting.remove(step)
                        continue
                    if not trainings.has_place:
                        break
                    waiting.remove(step)
                    try:
                        locks[step.id] = self._locked(step)
                        trainings.start(self._job(step), max(1, min(places, could)))
                    except UserError as error:
                        self._fail(step, str(error))
                        self._unlock(locks.pop(step.id, None))
                for ended in trainings.wait() if trainings.busy else []:
                    step = self._step(ended.job.name)
                    if ended.problem is None:
                        self._finish(step, ended.seconds)
                    else:
                        self._fail(step, ended.problem)
                    self._unlock(locks.pop(step.id))

    def _job(self, step: Step) -> Job:
        work = step.work
        if not isinstance(work, Train):
            raise TypeError(f"{step.id} trains nothing")
        missing = self._ledger.missing_data(step.id)
        if missing is not None:
            raise UserError(missing)
        recipe = work.recipe
        if work.init is not None:
            start = self._ledger.model_of(work.init)
            model = recipe.model.model_copy(update={"init": start})
            recipe = Recipe.model_validate(
                {**recipe.model_dump(), "model": model.model_dump(exclude_none=True)}
            )
        folder = self._ledger.folder_of(step.id)
        # Begun with another recipe, it must begin anew.
        trained = training_folder(folder)
        begun = (trained / RECIPE_FILE).is_file() and recorded_recipe(trained) == recipe
        resume = begun and self._ledger.status(step.id).state == "begun"
        return Job(step.id, recipe, folder, resume)

    def _not_there(self, step: Step) -> None:
        raise UserError(self._ledger.status(step.id).note)

    def _merge(self, step: Step) -> None:
        make_merge(step, self._graph, self._ledger, self._ledger.folder_of(step.id))

    def _recalibrate(self, step: Step) -> None:
        from revt_hf.merging.recalibration import RecalibrateOptions, recalibrate_on_sources
        from revt_hf.models.recorded import recorded_protocol

        work = step.work
        if not isinstance(work, Recalibrate):
            raise TypeError(f"{step.id} recalibrates nothing")
        model = Path(self._ledger.model_of(work.model))
        recalibrate_on_sources(
            model,
            self._ledger.folder_of(step.id),
            work.sources,
            recorded_protocol([model]),
            RecalibrateOptions(work.images, score_val=False, overwrite=True),
        )

    def _choose(self, step: Step) -> None:
        from revt_hf.experiments.score_steps import choose

        choose(step, self._graph, self._ledger)

    def _score(self, steps: Sequence[Step]) -> None:
        waiting = [step for step in self._unfinished(steps) if self._ready(step)]
        if waiting:
            self._score_all(waiting)
        from revt_hf.experiments.score_steps import relabel

        for step in steps:
            if self._ledger.done(step.id):
                relabel(step, self._graph, self._ledger)

    def _score_all(self, steps: list[Step]) -> None:
        from revt_hf.experiments.score_steps import groups, score

        missing = self._ledger.missing_data(steps[0].id)
        if missing is not None:
            for step in steps:
                self._fail(step, missing)
            return
        sizes = self._ledger.images(steps[0].id)
        for group in groups(steps, self._graph, self._ledger):
            bar = self._progress.add_task(f"score {len(group)} networks", total=sizes, note="")
            try:
                locks = [self._locked(step) for step in group]
                score(
                    group,
                    self._graph,
                    self._ledger,
                    lambda bar=bar: self._progress.advance(bar),  # type: ignore[misc]
                )
                for lock in locks:
                    self._unlock(lock)
                for step in group:
                    self._finish(step, None)
            except UserError as error:
                for step in group:
                    self._fail(step, str(error))
            finally:
                self._progress.remove_task(bar)

    def _one_by_one(self, kind: type, do: Callable[[Step], None]) -> None:
        steps = [step for step in self._steps if isinstance(step.work, kind)]
        for step in self._unfinished(steps):
            if not self._ready(step):
                continue
            self._progress.update(self._bar, note=step.id)
            since = time.perf_counter()
            try:
                lock = self._locked(step)
                try:
                    do(step)
                finally:
                    self._unlock(lock)
                self._finish(step, time.perf_counter() - since)
            except UserError as error:
                self._fail(step, str(error))

    def _unfinished(self, steps: Iterable[Step]) -> list[Step]:
        left = []
        for step in steps:
            if self._ledger.done(step.id):
                self._outcome.kept.append(step.id)
                self._progress.advance(self._bar)
            else:
                left.append(step)
        return left

    def _needs_done(self, step: Step) -> bool:
        return all(self._ledger.done(need) for need in step.needs)

    def _ready(self, step: Step, among: Sequence[Step] = ()) -> bool:
        """Whether all that a step needs is done; what can never be is put on record."""
        coming = {other.id for other in among}
        for need in step.needs:
            if self._ledger.done(need):
                continue
            if need not in coming:
                self._outcome.blocked[step.id] = need
                self._progress.advance(self._bar)
            return False
        return True

    def _finish(self, step: Step, seconds: float | None) -> None:
        if seconds is not None:
            try:
                self._ledger.finish(step.id, seconds)
            except UserError as error:
                self._fail(step, str(error))
                return
        self._outcome.done.append(step.id)
        self._progress.advance(self._bar)

    def _fail(self, step: Step, why: str) -> None:
        self._outcome.failed[step.id] = why
        self._progress.advance(self._bar)
        if not self._how.quiet:
            self._progress.console.print(f"failed: {step.id}: {why}", markup=False)

    def _locked(self, step: Step) -> FileLock:
        """No two processes do the same step.

        Raises:
            UserError: another one is doing it.
        """
        path = self._folder / STEPS_FOLDER / f"{step.id.replace('/', '__')}.lock"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError("another process is doing this step") from error
        return lock

    def _unlock(self, lock: FileLock | None) -> None:
        if lock is not None:
            lock.release()

    def _step(self, step_id: str) -> Step:
        return self._graph.steps[step_id]


def _ordered(graph: Graph) -> list[Step]:
    """In the order of work."""
    kinds: list[Any] = [Given, Train, Average, MergeWork, Recalibrate, Score, Choose]
    return [step for kind in kinds for step in graph.of_kind(kind)]


def _grouped(failed: dict[str, str]) -> dict[str, str]:
    """Steps that failed for the same reason are named once."""
    steps: dict[str, list[str]] = {}
    for step, why in failed.items():
        steps.setdefault(why, []).append(step)
    return {
        f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]: why
        for why, names in steps.items()
    }
