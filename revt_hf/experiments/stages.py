"""What is left of an experiment as stages of array jobs, each a readable shell script."""

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from revt_hf.core.errors import UserError, printable
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
from revt_hf.experiments.ledger import Ledger
from revt_hf.experiments.slurm_settings import Kind, SlurmSettings, StageSettings

_TOGETHER = 8
_ABOUT: dict[Kind, str] = {
    "train": "Trainings; started again, a task goes on from its checkpoint.",
    "merge": "Merges, and their recalibration.",
    "score": "Scores; the networks of a task share the decoding of images.",
    "report": "From what is done by then.",
}


@dataclass(frozen=True)
class Stage:
    """An array job.

    Attributes:
        name: also of its script and logs.
        kind: whose settings it gets.
        tasks: for each, the steps that it does, or folders of steps; none for table and report.
    """

    name: str
    kind: Kind
    tasks: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Call:
    """The call of ``revt run`` that all tasks have in common, and where its jobs are at home.

    Attributes:
        experiment: the file.
        output: the experiment's folder.
        overrides: ``a.b=c`` strings.
    """

    experiment: Path
    output: Path
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where scripts and logs lie; absolute."""
        return self.output.absolute() / "slurm"


def stages(graph: Graph, ledger: Ledger) -> list[Stage]:
    """What is not done, in the order of work; nothing if all is done.

    A task is a training, the merges of one name, or scores of up to 8 networks.
    """
    left = [
        step
        for step in graph.steps.values()
        if not isinstance(step.work, Given | Average) and not ledger.done(step.id)
    ]
    if not left:
        return []
    chosen = [step.id for step in left if isinstance(step.work, Choose)]
    found = [
        *_trainings([step for step in left if isinstance(step.work, Train)]),
        Stage("merge", "merge", tuple(_merges(left))),
        Stage("score", "score", tuple(_scores(left))),
        Stage("select", "report", (tuple(chosen),) if chosen else ()),
        Stage("report", "report", ((),)),
    ]
    return [stage for stage in found if stage.tasks]


def script(stage: Stage, settings: SlurmSettings, title: str, call: Call) -> str:
    """The batch script of a stage, in bash; the experiment's title leads the job's name.

    Raises:
        UserError: the name of a folder does not fit into it.
    """
    for place in (call.folder, Path.cwd()):
        if printable(str(place)) != str(place):
            # Slurm reads options line by line: what follows a line break would be a command.
            raise UserError(f"{place}: a folder of jobs has no control characters in its name")
    own = settings.of(stage.kind)
    log = shlex.quote(str(call.folder / stage.name).replace("%", "%%") + "-%a.log")
    limit = f"%{own.at_once}" if own.at_once else ""
    options = [
        f"--job-name={_slug(title)}-{stage.name}",
        f"--array=0-{len(stage.tasks) - 1}{limit}",
        f"--output={log}",
        "--open-mode=append",
        *own.options(),
    ]
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *(f"#SBATCH {option}" for option in options),
            "",
            f"# {_ABOUT[stage.kind]}",
            "set -e",
            f"cd {shlex.quote(str(Path.cwd()))}",
            *own.setup,
            "set -u",
            f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{_threads(stage, own)}}}",
            "",
            "case $SLURM_ARRAY_TASK_ID in",
            *(f"  {n}) set -- {_arguments(task)} ;;" for n, task in enumerate(stage.tasks)),
            '  *) echo "there is no task $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;',
            "esac",
            f'exec {shlex.join(_command(stage, call, settings.launcher))} "$@"',
            "",
        ]
    )


def _trainings(steps: Sequence[Step]) -> Iterator[Stage]:
    """A stage for those that start from nothing that is missing, one for what starts from those."""
    levels: dict[str, int] = {}
    for step in steps:
        levels[step.id] = max((levels[n] + 1 for n in step.needs if n in levels), default=0)
    for level in range(max(levels.values(), default=-1) + 1):
        tasks = [(step_id,) for step_id, at in levels.items() if at == level]
        yield Stage(f"train-{level}", "train", tuple(tasks))


def _merges(steps: Iterable[Step]) -> Iterator[tuple[str, ...]]:
    names: dict[str, dict[str, None]] = {}
    for step in steps:
        if isinstance(step.work, MergeWork | Recalibrate):
            kind, name, *_ = step.id.split("/")
            names.setdefault(name, {})[f"{kind}/{name}"] = None
    yield from map(tuple, names.values())


def _scores(steps: Iterable[Step]) -> Iterator[tuple[str, ...]]:
    """Networks by all protocols: no two tasks make a merge that is not kept."""
    networks: dict[str, list[str]] = {}
    for step in steps:
        if isinstance(step.work, Score):
            networks.setdefault(step.work.network, []).append(step.id)
    left = list(networks.values())
    count = -(-len(left) // _TOGETHER)
    for number in range(count):
        # As equal as can be: the longest task decides when the stage ends.
        part = left[number * len(left) // count : (number + 1) * len(left) // count]
        yield tuple(step_id for steps_of_one in part for step_id in steps_of_one)


def _arguments(steps: Sequence[str]) -> str:
    """What a task tells ``revt run``, a line for each step if there are several."""
    words = [f"--only {shlex.quote(step)}" for step in steps] or ["--report-only"]
    return " \\\n       ".join(words)


def _command(stage: Stage, call: Call, launcher: str | None) -> list[str]:
    words = [sys.executable, "-m", "revt_hf.cli.main", "run", str(call.experiment)]
    words += ["--output", str(call.output)]
    for override in call.overrides:
        words += ["--set", override]
    if stage.kind == "train" and launcher:
        words += ["--launcher", launcher]
    if all(stage.tasks):
        words.append("--no-needs")
    return words


def _threads(stage: Stage, settings: StageSettings) -> str:
    """The cores that the task got; of several processes, one a GPU, each its share."""
    processes = settings.gpu_count if stage.kind == "train" else 1
    if processes < 2:
        return "$SLURM_CPUS_ON_NODE"
    return f"$(((SLURM_CPUS_ON_NODE + {processes - 1}) / {processes}))"


def _slug(title: str) -> str:
    """A title as the name of a job."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "experiment"
