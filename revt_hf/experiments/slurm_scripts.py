"""The remaining steps of an experiment as stages of Slurm array jobs, each a readable script."""

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from revt_hf.core.errors import UserError, printable
from revt_hf.experiments.experiment_folder import ExperimentFolder, Step
from revt_hf.experiments.graph import Graph
from revt_hf.experiments.score_steps import Score
from revt_hf.experiments.slurm_settings import Kind, SlurmSettings, StageSettings
from revt_hf.experiments.training_processes import REVT

_MOST_NETWORKS = 8
_ABOUT: dict[Kind, str] = {
    "train": "Trainings; a task that is started again resumes from its checkpoint.",
    "merge": "Merges and their recalibration.",
    "score": "Scores; the networks of a task share the decoding of images.",
    "report": "Tables and report of what is done by then.",
}


@dataclass(frozen=True)
class Stage:
    """An array job.

    Attributes:
        name: of the stage, its script and its logs.
        kind: whose settings it gets.
        tasks: for each task the steps it runs, or folders of steps; empty for tables and report.
    """

    name: str
    kind: Kind
    tasks: tuple[tuple[str, ...], ...]


def stages(graph: Graph, folder: ExperimentFolder) -> list[Stage]:
    """The steps that are not done, in the order of work; empty if all are done.

    A task is a training, the merges of one name, or the scores of up to 8 networks.
    """
    left = [step for step in graph.steps.values() if step.stage and not folder.done(step.id)]
    if not left:
        return []
    chosen = tuple(step.id for step in left if step.stage == "select")
    found = [
        *_trainings([step for step in left if step.stage == "train"]),
        Stage("merge", "merge", _merges([step for step in left if step.stage == "merge"])),
        Stage("score", "score", _scores([step for step in left if isinstance(step, Score)])),
        Stage("select", "report", (chosen,) if chosen else ()),
        Stage("report", "report", ((),)),
    ]
    return [stage for stage in found if stage.tasks]


def batch_script(
    stage: Stage, settings: SlurmSettings, title: str, run: Sequence[str], folder: Path
) -> str:
    """The batch script of a stage, in bash.

    Args:
        stage: its tasks.
        settings: of all stages.
        title: of the experiment; leads the job's name.
        run: arguments of ``revt run`` that all tasks have in common.
        folder: absolute, for the logs.

    Raises:
        UserError: a folder's name does not fit into the script.
    """
    for path in (folder, Path.cwd()):
        if printable(str(path)) != str(path):
            # Slurm reads options line by line: the text after a line break would be a command.
            raise UserError(f"{path}: a folder of jobs has no control characters in its name")
    own = settings.of(stage.kind)
    log = shlex.quote(str(folder / stage.name).replace("%", "%%") + "-%a.log")
    limit = f"%{own.at_once}" if own.at_once else ""
    command = [sys.executable, *REVT, "run", *run]
    if stage.kind == "train" and settings.launcher:
        command += ["--launcher", settings.launcher]
    if all(stage.tasks):
        command.append("--no-needs")
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
            f'exec {shlex.join(command)} "$@"',
            "",
        ]
    )


def _trainings(steps: Sequence[Step]) -> Iterator[Stage]:
    """One stage for trainings without missing inputs, one for those that start from them, ..."""
    levels: dict[str, int] = {}
    for step in steps:
        levels[step.id] = max((levels[one] + 1 for one in step.inputs if one in levels), default=0)
    for level in range(max(levels.values(), default=-1) + 1):
        tasks = [(step_id,) for step_id, at in levels.items() if at == level]
        yield Stage(f"train-{level}", "train", tuple(tasks))


def _merges(steps: Sequence[Step]) -> tuple[tuple[str, ...], ...]:
    names: dict[str, dict[str, None]] = {}
    for step in steps:
        kind, name, *_ = step.id.split("/")
        names.setdefault(name, {})[f"{kind}/{name}"] = None
    return tuple(map(tuple, names.values()))


def _scores(steps: Sequence[Score]) -> tuple[tuple[str, ...], ...]:
    """Networks with all their protocols: no two tasks make the same temporary merge."""
    networks: dict[str, list[str]] = {}
    for step in steps:
        networks.setdefault(step.network.id, []).append(step.id)
    left = list(networks.values())
    count = -(-len(left) // _MOST_NETWORKS)
    # As equal as possible: the longest task determines when the stage ends.
    parts = [left[n * len(left) // count : (n + 1) * len(left) // count] for n in range(count)]
    return tuple(tuple(step_id for ids in part for step_id in ids) for part in parts)


def _arguments(steps: Sequence[str]) -> str:
    """The arguments of a task, one step per line."""
    words = [f"--only {shlex.quote(step)}" for step in steps] or ["--report-only"]
    return " \\\n       ".join(words)


def _threads(stage: Stage, settings: StageSettings) -> str:
    """The cores of the task, shared by its processes (one per GPU)."""
    processes = settings.gpu_count if stage.kind == "train" else 1
    if processes < 2:
        return "$SLURM_CPUS_ON_NODE"
    return f"$(((SLURM_CPUS_ON_NODE + {processes - 1}) / {processes}))"


def _slug(title: str) -> str:
    """A title as the name of a job."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "experiment"
