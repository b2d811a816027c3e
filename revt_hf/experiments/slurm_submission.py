"""Submitting an experiment to Slurm, as array jobs that wait for each other."""

import getpass
import json
import logging
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import write_json, write_text
from revt_hf.experiments.build_graph import build_graph
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.experiment_recipe import load_experiment
from revt_hf.experiments.slurm_scripts import Stage, batch_script, stages
from revt_hf.experiments.slurm_settings import SlurmSettings
from revt_hf.experiments.step_overview import lacking_data

_SUBMITTED = "submitted.json"
_log = logging.getLogger(__name__)


@dataclass
class SlurmJob:
    """A stage as it is submitted.

    Attributes:
        stage: its tasks.
        file: path of the script.
        script: the batch script.
        after: stages that must have ended, successfully or not.
        number: Slurm's number of the job, once it is submitted.
    """

    stage: Stage
    file: Path
    script: str
    after: tuple[str, ...]
    number: str | None = None

    def sbatch(self, numbers: Sequence[str]) -> list[str]:
        """The command that submits it to run after the jobs of these numbers."""
        wait = [f"--dependency=afterany:{':'.join(numbers)}"] if numbers else []
        return ["sbatch", "--parsable", *wait, str(self.file)]

    def to_json(self) -> dict[str, Any]:
        """Its entry in ``submitted.json`` and ``--json``."""
        return {
            "stage": self.stage.name,
            "job": self.number,
            "after": list(self.after),
            "script": str(self.file),
            "tasks": [list(task) for task in self.stage.tasks],
        }


def submit_experiment(
    path: str | Path,
    output: str | Path,
    overrides: Sequence[str] = (),
    settings: SlurmSettings | None = None,
    dry_run: bool = False,
) -> list[SlurmJob]:
    """Submit the steps of an experiment that are not done.

    Args:
        path: the experiment (YAML).
        output: its folder.
        overrides: ``a.b=c`` strings.
        settings: of the jobs.
        dry_run: write and submit nothing.

    Returns:
        The jobs; empty if all steps are done.

    Raises:
        UserError: the experiment is not valid, there is no Slurm, it refuses a job (the jobs
            before it are cancelled then), or jobs of this folder are still in its queue.
    """
    experiment = load_experiment(path, overrides)
    graph = build_graph(experiment)
    folder = ExperimentFolder(Path(output), graph.steps)
    folder.check(graph.data_dirs)
    run = [str(path), "--output", str(output), *(w for o in overrides for w in ("--set", o))]
    scripts = Path(output).absolute() / "slurm"
    found = stages(graph, folder)
    jobs = [
        SlurmJob(
            stage,
            scripts / f"{stage.name}.sh",
            batch_script(stage, settings or SlurmSettings(), experiment.title, run, scripts),
            tuple(before.name for before in found[:number]),
        )
        for number, stage in enumerate(found)
    ]
    if jobs and not dry_run:
        _check_slurm(scripts)
    # Not an error: the nodes of a cluster may see data that this machine does not.
    for note, count in lacking_data([folder.status(one) for one in graph.steps]).items():
        _log.info("seen from this machine, %d steps lack their data: %s", count, note)
    if jobs and not dry_run:
        folder.begin()
        _submit(jobs, scripts)
    return jobs


def as_text(jobs: Sequence[SlurmJob]) -> str:
    """The scripts, then the commands that submit them, in bash."""
    parts = [f"# {job.file}\n{job.script}" for job in jobs]
    commands = []
    for job in jobs:
        sbatch = job.sbatch([f"${_variable(name)}" for name in job.after])
        words = [*sbatch[:-1], shlex.quote(sbatch[-1])]
        commands.append(f"{_variable(job.stage.name)}=$({' '.join(words)})")
    return "\n".join([*parts, "# These submit them:", *commands, ""])


def _submit(jobs: Sequence[SlurmJob], folder: Path) -> None:
    """Write the scripts and submit all jobs or none."""
    for job in jobs:
        write_text(job.file, job.script)
    numbers: dict[str, str] = {}
    try:
        for job in jobs:
            command = job.sbatch([numbers[name] for name in job.after])
            # On a federation of clusters: number;cluster.
            job.number = _slurm(command, f"refused {job.stage.name}").partition(";")[0]
            numbers[job.stage.name] = job.number
        write_json(folder / _SUBMITTED, [job.to_json() for job in jobs])
    except BaseException as error:
        if numbers:
            listed = ", ".join(numbers.values())
            _slurm(["scancel", *numbers.values()], f"did not cancel {listed}")
            if isinstance(error, UserError):
                raise UserError(f"{error}; the jobs before it are cancelled ({listed})") from error
        raise


def _check_slurm(folder: Path) -> None:
    """Refuse if there is no Slurm, or if jobs submitted before are still in its queue."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no sbatch here: run it on a login node of the cluster, or look at the "
            "scripts with --print"
        )
    try:
        before = {str(row["job"]) for row in json.loads((folder / _SUBMITTED).read_text())}
    except (OSError, ValueError, TypeError, KeyError):
        return
    queue = ["squeue", "--noheader", "--format=%F", f"--user={getpass.getuser()}"]
    waiting = sorted(before & set(_slurm(queue, "did not show its queue").split()), key=int)
    if waiting:
        raise UserError(
            f"{folder}: jobs submitted before are not over ({', '.join(waiting)}): wait for them, "
            f"or scancel {' '.join(waiting)}"
        )


def _slurm(command: Sequence[str], failure: str) -> str:
    """The output of a Slurm command; ``failure`` leads the sentence if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"cannot run {command[0]}: {error.strerror or error}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise UserError(f"Slurm {failure}: {said}")
    return done.stdout.strip()


def _variable(stage: str) -> str:
    return stage.replace("-", "_")
