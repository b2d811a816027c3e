"""``revt run`` and ``revt submit``: parse, validate, call."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.options import Json, Overrides, Quiet

ExperimentFile = Annotated[Path, typer.Argument(help="Experiment (YAML).")]
Output = Annotated[Path, typer.Option(help="Folder of the experiment; finished steps are kept.")]
Launcher = Annotated[
    str | None,
    typer.Option(metavar="COMMAND", help="Start trainings with this, such as 'accelerate launch'."),
]


def run(
    experiment: ExperimentFile,
    output: Output,
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEPS",
            help="Run only these steps and what they need, such as 'members/*' or merges/revt.",
        ),
    ] = None,
    no_needs: Annotated[
        bool, typer.Option("--no-needs", help="With --only: do not run what the steps need.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the steps and their states; run nothing.")
    ] = False,
    report_only: Annotated[
        bool,
        typer.Option("--report-only", help="Write tables and report of finished steps only."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Run this many trainings side by side. Default: one per GPU, or one per core.",
        ),
    ] = None,
    launcher: Launcher = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Run a whole experiment: members, merges, ensembles, scores, tables and report."""
    from rich.console import Console

    from revt_hf.core.errors import UserError, counted
    from revt_hf.core.outputs import write_json
    from revt_hf.experiments.execution import ExperimentOptions, plan_experiment, run_experiment

    _check_json(json_file, output, [experiment], writes=not dry_run)
    options = ExperimentOptions(tuple(only or ()), not no_needs, report_only, jobs, launcher, quiet)
    if dry_run:
        tree, rows = plan_experiment(experiment, output, overrides or [], options)
        Console().print(tree)
        if json_file is not None:
            write_json(json_file, rows)
        return
    outcome = run_experiment(experiment, output, overrides or [], options)
    if json_file is not None:
        write_json(json_file, outcome.steps)
    if not quiet:
        for path in outcome.written:
            print(f"written: {path}")
    problem = outcome.problem()
    if problem is not None:
        raise UserError(problem)
    if not quiet and not report_only:
        print(f"{counted(len(outcome.done), 'step')} done, {len(outcome.kept)} were: {output}")


def submit(
    experiment: ExperimentFile,
    output: Output,
    overrides: Overrides = None,
    slurm: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings of the jobs (YAML).")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm account to charge.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Time limit of a task, such as 12:00:00.")
    ] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs of a task, such as 1 or a100:2.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores of a task.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of a task, such as 32G.")] = None,
    launcher: Launcher = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Show scripts and commands; submit nothing.")
    ] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Submit the remaining steps of an experiment to Slurm, as array jobs."""
    from revt_hf.core.errors import counted
    from revt_hf.core.outputs import write_json
    from revt_hf.experiments.slurm_jobs import as_text, submit_experiment
    from revt_hf.experiments.slurm_settings import load_settings

    flags = {
        "partition": partition,
        "account": account,
        "time": time,
        "gpus": gpus,
        "cpus": cpus,
        "memory": memory,
        "launcher": launcher,
    }
    _check_json(json_file, output, [experiment, slurm], writes=not only_print)
    settings = load_settings(slurm, flags)
    jobs = submit_experiment(experiment, output, overrides or [], settings, dry_run=only_print)
    if not jobs:
        print(
            "all steps are done, nothing is left to submit: revt run --report-only writes tables "
            "and report"
        )
    elif only_print:
        print(as_text(jobs), end="")
    elif not quiet:
        for job in jobs:
            after = f", after {', '.join(job.after)}" if job.after else ""
            tasks = counted(len(job.stage.tasks), "task")
            print(f"{job.stage.name}: job {job.number}, {tasks}{after}")
        print(f"scripts, logs and job numbers: {jobs[0].file.parent}")
    if json_file is not None:
        write_json(json_file, [job.to_json() for job in jobs])


def _check_json(
    json_file: Path | None, output: Path, inputs: list[Path | None], writes: bool
) -> None:
    """Refuse JSON in a folder that must hold nothing else before it becomes an experiment's."""
    from revt_hf.core.outputs import check_output_file
    from revt_hf.experiments.experiment_folder import ExperimentFolder

    begun = writes or ExperimentFolder(output, {}).is_begun
    check_output_file(json_file, inputs=inputs, outputs=[] if begun else [output])


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to a panel of ``revt --help``."""
    app.command(rich_help_panel=panel)(run)
    app.command(rich_help_panel=panel)(submit)
