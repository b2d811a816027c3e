"""The remaining steps of an experiment as Slurm array jobs that wait for each other."""

import getpass
import json
import logging
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.core.errors import UserError, printable
from revt_hf.core.outputs import write_json, write_text
from revt_hf.experiments.execution import lacking_data
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.experiment_recipe import load_experiment
from revt_hf.experiments.graph import build_graph
from revt_hf.experiments.slurm_settings import SlurmSettings, StageSettings
from revt_hf.experiments.stages import Kind, Stage, stages, word_of
from revt_hf.experiments.training_processes import REVT

_log = logging.getLogger(__name__)
_ABOUT: dict[Kind, str] = {
    "train": "Trainings; a task that is started again resumes from its checkpoint.",
    "merge": "Merges and their recalibration.",
    "score": "Scores; the networks of a task share the decoding of images.",
    "report": "Tables and report of what is done by then.",
}


@dataclass
class SlurmJob:
    """An array job that waits for all earlier ones; ``number`` is Slurm's, once it is submitted."""

    stage: Stage
    file: Path
    after: tuple[str, ...]
    script: str = ""
    number: str | None = None

    @property
    def name(self) -> str:
        return self.stage.name

    def sbatch(self, numbers: Sequence[str]) -> list[str]:
        """The command that submits it to run after the jobs of these numbers."""
        wait = [f"--dependency=afterany:{':'.join(numbers)}"] if numbers else []
        return ["sbatch", "--parsable", *wait, str(self.file)]

    def to_json(self) -> dict[str, Any]:
        """Its entry in ``submitted.json`` and ``--json``."""
        row = {"stage": self.name, "job": self.number, "after": list(self.after)}
        tasks = [list(task) for task in self.stage.tasks]
        return row | {"script": str(self.file), "tasks": tasks}


def batch_script(job: SlurmJob, settings: SlurmSettings, title: str, run: Sequence[str]) -> str:
    stage = job.stage
    for path in (job.file.parent, Path.cwd()):
        if printable(str(path)) != str(path):
            # Slurm reads options line by line: the text after a line break would be a command.
            raise UserError(f"{path}: a folder of jobs has no control characters in its name")
    own = settings.of(stage.kind)
    name = word_of(title)
    log = shlex.quote(str(job.file.with_suffix("")).replace("%", "%%") + "-%a.log")
    limit = f"%{own.at_once}" if own.at_once else ""
    command = [sys.executable, *REVT, "run", *run]
    if stage.kind == "train" and settings.launcher:
        command += ["--launcher", settings.launcher]
    if all(stage.tasks):
        command.append("--no-needs")
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            f"#SBATCH --job-name={name}-{stage.name}",
            f"#SBATCH --array=0-{len(stage.tasks) - 1}{limit}",
            f"#SBATCH --output={log}",
            "#SBATCH --open-mode=append",
            *(f"#SBATCH {option}" for option in own.options()),
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


def _arguments(steps: Sequence[str]) -> str:
    words = [f"--only {shlex.quote(step)}" for step in steps] or ["--report-only"]
    return " \\\n       ".join(words)


def _threads(stage: Stage, settings: StageSettings) -> str:
    """The cores of the task, shared by its processes (one per GPU)."""
    processes = settings.gpu_count if stage.kind == "train" else 1
    if processes < 2:
        return "$SLURM_CPUS_ON_NODE"
    return f"$(((SLURM_CPUS_ON_NODE + {processes - 1}) / {processes}))"


def submit_experiment(
    path: str | Path,
    output: str | Path,
    overrides: Sequence[str] = (),
    settings: SlurmSettings | None = None,
    dry_run: bool = False,
) -> list[SlurmJob]:
    experiment = load_experiment(path, overrides)
    graph = build_graph(experiment)
    folder = ExperimentFolder(Path(output), graph.steps)
    folder.check(graph.data_dirs)
    run = [str(path), "--output", str(output), *(w for o in overrides for w in ("--set", o))]
    jobs, scripts = list[SlurmJob](), folder.path.absolute() / "slurm"
    for stage in stages(graph, folder.done):
        after = tuple(before.name for before in jobs)
        jobs.append(SlurmJob(stage, scripts / f"{stage.name}.sh", after))
    for job in jobs:
        job.script = batch_script(job, settings or SlurmSettings(), experiment.title, run)
    submitted = Path(output).absolute() / "slurm" / "submitted.json"
    if jobs and not dry_run:
        _check_slurm(submitted)
    # Not an error: the nodes of a cluster may see data that this machine does not.
    for note, count in lacking_data([folder.status(one) for one in graph.steps]).items():
        _log.info("seen from this machine, %d steps lack their data: %s", count, note)
    if jobs and not dry_run:
        folder.begin()
        _submit(jobs, submitted)
    return jobs


def as_text(jobs: Sequence[SlurmJob]) -> str:
    parts = [f"# {job.file}\n{job.script}" for job in jobs]
    commands = []
    for job in jobs:
        sbatch = job.sbatch([f"${name.replace('-', '_')}" for name in job.after])
        words = [*sbatch[:-1], shlex.quote(sbatch[-1])]
        commands.append(f"{job.name.replace('-', '_')}=$({' '.join(words)})")
    return "\n".join([*parts, "# These submit them:", *commands, ""])


def _submit(jobs: Sequence[SlurmJob], submitted: Path) -> None:
    for job in jobs:
        write_text(job.file, job.script)
    numbers: dict[str, str] = {}
    try:
        for job in jobs:
            command = job.sbatch([numbers[name] for name in job.after])
            # On a federation of clusters: number;cluster.
            job.number = _slurm(command, f"refused {job.name}").partition(";")[0]
            numbers[job.name] = job.number
        write_json(submitted, [job.to_json() for job in jobs])
    except BaseException as error:
        if numbers:
            listed = ", ".join(numbers.values())
            _slurm(["scancel", *numbers.values()], f"did not cancel {listed}")
            if isinstance(error, UserError):
                raise UserError(f"{error}; the jobs before it are cancelled ({listed})") from error
        raise


def _check_slurm(submitted: Path) -> None:
    """Refuse if there is no Slurm, or if jobs submitted before are still in its queue."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no sbatch here: run it on a login node of the cluster, or look at the "
            "scripts with --print"
        )
    try:
        before = {str(row["job"]) for row in json.loads(submitted.read_text())}
    except (OSError, ValueError, TypeError, KeyError):
        return
    queue = ["squeue", "--noheader", "--format=%F", f"--user={getpass.getuser()}"]
    waiting = sorted(before & set(_slurm(queue, "did not show its queue").split()), key=int)
    if waiting:
        raise UserError(
            f"{submitted.parent}: jobs submitted before are not over ({', '.join(waiting)}): wait "
            f"for them, or scancel {' '.join(waiting)}"
        )


def _slurm(command: Sequence[str], failure: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"cannot run {command[0]}: {error.strerror or error}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise UserError(f"Slurm {failure}: {said}")
    return done.stdout.strip()
