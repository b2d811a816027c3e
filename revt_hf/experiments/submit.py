"""What ``revt submit`` does: an experiment as Slurm array jobs that wait for each other."""

import getpass
import json
import logging
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import write_json, write_text
from revt_hf.experiments.folder import begin_folder, check_folder
from revt_hf.experiments.graph import Graph
from revt_hf.experiments.ledger import Ledger
from revt_hf.experiments.recipe import load_experiment
from revt_hf.experiments.slurm_settings import SlurmSettings
from revt_hf.experiments.stages import Call, Stage, script, stages
from revt_hf.experiments.steps import build_graph

_SUBMITTED = "submitted.json"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A stage as it is submitted.

    Attributes:
        stage: what its tasks do.
        file: where its script lies.
        script: the batch script.
        after: stages that must have ended, well or not.
    """

    stage: Stage
    file: Path
    script: str
    after: tuple[str, ...]

    def sbatch(self, numbers: Sequence[str]) -> list[str]:
        """The command that submits it, ``numbers`` being those of the jobs to wait for."""
        wait = [f"--dependency=afterany:{':'.join(numbers)}"] if numbers else []
        return ["sbatch", "--parsable", *wait, str(self.file)]

    def to_json(self, number: str | None) -> dict[str, Any]:
        """What ``submitted.json`` and ``--json`` say of it."""
        return {
            "stage": self.stage.name,
            "job": number,
            "after": list(self.after),
            "script": str(self.file),
            "tasks": [list(task) for task in self.stage.tasks],
        }


def submit_command(
    call: Call, settings: SlurmSettings, only_print: bool, json_file: Path | None, quiet: bool
) -> None:
    """Write and submit what is not done of an experiment.

    Args:
        call: the experiment and its folder.
        settings: what the jobs ask for.
        only_print: show scripts and commands, write and submit nothing.
        json_file: gets the jobs.
        quiet: say nothing of them.

    Raises:
        UserError: the experiment is not valid, there is no Slurm, it refuses a job (those before
            it are cancelled then), or jobs of this folder are still in its queue.
    """
    experiment = load_experiment(call.experiment, call.overrides)
    graph = build_graph(experiment)
    check_folder(graph, call.output)
    ledger = Ledger(graph, call.output)
    jobs = plan_jobs(stages(graph, ledger), settings, experiment.title, call)
    if not jobs:
        print(
            f"all {len(graph.steps)} steps are done, nothing is left to submit: revt run "
            "--report-only writes table and report"
        )
    elif only_print:
        print(as_text(jobs), end="")
    else:
        _check_slurm(call.folder)
    _remark_on_data(graph, ledger)
    numbers: dict[str, str] = {}
    if jobs and not only_print:
        begin_folder(graph, call.output)
        numbers = submit(jobs, call.folder)
    if json_file is not None:
        write_json(json_file, [job.to_json(numbers.get(job.stage.name)) for job in jobs])
    if numbers and not quiet:
        for job in jobs:
            after = f", after {', '.join(job.after)}" if job.after else ""
            tasks = len(job.stage.tasks)
            count = f"{tasks} task{'s' if tasks > 1 else ''}"
            print(f"{job.stage.name}: job {numbers[job.stage.name]}, {count}{after}")
        print(f"scripts, logs and job numbers: {call.folder}")


def plan_jobs(found: Sequence[Stage], settings: SlurmSettings, title: str, call: Call) -> list[Job]:
    """The jobs of stages; each waits for all before it."""
    return [
        Job(
            stage,
            call.folder / f"{stage.name}.sh",
            script(stage, settings, title, call),
            tuple(before.name for before in found[:number]),
        )
        for number, stage in enumerate(found)
    ]


def as_text(jobs: Sequence[Job]) -> str:
    """Scripts, then the commands that submit them, in bash."""
    parts = [f"# {job.file}\n{job.script}" for job in jobs]
    commands = []
    for job in jobs:
        sbatch = job.sbatch([f"${_variable(name)}" for name in job.after])
        words = [*sbatch[:-1], shlex.quote(sbatch[-1])]
        commands.append(f"{_variable(job.stage.name)}=$({' '.join(words)})")
    return "\n".join([*parts, "# These submit them:", *commands, ""])


def submit(jobs: Sequence[Job], folder: Path) -> dict[str, str]:
    """Write the scripts and submit all jobs or none.

    Returns:
        Slurm's number of each stage's job.

    Raises:
        UserError: Slurm refuses a job; those before it are cancelled.
    """
    for job in jobs:
        write_text(job.file, job.script)
    numbers: dict[str, str] = {}
    try:
        for job in jobs:
            command = job.sbatch([numbers[name] for name in job.after])
            # On a federation of clusters: number;cluster.
            numbers[job.stage.name] = _slurm(command, f"refused {job.stage.name}").partition(";")[0]
        rows = [job.to_json(numbers[job.stage.name]) for job in jobs]
        write_json(folder / _SUBMITTED, rows)
    except BaseException as error:
        if numbers:
            _slurm(["scancel", *numbers.values()], f"did not cancel {', '.join(numbers.values())}")
        if isinstance(error, UserError) and numbers:
            cancelled = f"the jobs before it are cancelled ({', '.join(numbers.values())})"
            raise UserError(f"{error}; {cancelled}") from error
        raise
    return numbers


def _check_slurm(folder: Path) -> None:
    """Refuse where there is no Slurm, or where it still works on what was submitted before."""
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


def _remark_on_data(graph: Graph, ledger: Ledger) -> None:
    """The nodes of a cluster may see what this machine does not, so this is no error."""
    statuses = [ledger.status(step_id) for step_id in graph.steps]
    notes = Counter(one.note for one in statuses if one.note and one.state != "begun")
    for note, count in notes.items():
        _LOG.info("seen from this machine, %d steps lack what they read: %s", count, note)


def _slurm(command: Sequence[str], failure: str) -> str:
    """What a command of Slurm answers.

    Raises:
        UserError: ``failure``, and what Slurm said.
    """
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
