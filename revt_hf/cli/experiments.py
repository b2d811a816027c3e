"""``revt run`` and ``revt submit``: parse, validate, call."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.data import Json, Quiet

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value.")
]
ExperimentFile = Annotated[Path, typer.Argument(help="An experiment (YAML).")]
Output = Annotated[Path, typer.Option(help="The experiment's folder; what is done there stays.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STEPS", help="These steps and what they need, such as 'members/*' or merges/revt."
    ),
]

Launcher = Annotated[
    str | None,
    typer.Option(metavar="COMMAND", help="For trainings, such as 'accelerate launch'."),
]


def run(
    experiment: ExperimentFile,
    output: Output,
    overrides: Overrides = None,
    only: Only = None,
    no_needs: Annotated[
        bool, typer.Option("--no-needs", help="Only these, not what they need.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and what is done, do nothing.")
    ] = False,
    report_only: Annotated[
        bool,
        typer.Option("--report-only", help="Do no step, write table and report of what is done."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Trainings side by side; default: one a GPU, or one a core."
        ),
    ] = None,
    launcher: Launcher = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Run a whole experiment: members, merges, ensembles, scores, table and report."""
    from revt_hf.core.outputs import check_output_file
    from revt_hf.experiments.command import run_command
    from revt_hf.experiments.folder import STEPS_FOLDER
    from revt_hf.experiments.runner import HowToRun

    # A folder that is not an experiment's yet must hold nothing else.
    begun = not dry_run or (output / STEPS_FOLDER).is_dir()
    check_output_file(json_file, inputs=[experiment], outputs=[] if begun else [output])
    how = HowToRun(tuple(only or ()), not no_needs, jobs, launcher, quiet)
    run_command(experiment, output, overrides or [], how, dry_run, json_file, report_only)


def submit(
    experiment: ExperimentFile,
    output: Output,
    overrides: Overrides = None,
    slurm: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings of the jobs (YAML).")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Who pays.")] = None,
    time: Annotated[str | None, typer.Option(help="Limit of a task, such as 12:00:00.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs of a task, such as 1 or a100:2.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Cores of a task.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of a task, such as 32G.")] = None,
    launcher: Launcher = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Show scripts and commands, submit nothing.")
    ] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Submit what is not done of an experiment to Slurm, as array jobs; submit again to go on."""
    from revt_hf.core.outputs import check_output_file
    from revt_hf.experiments.folder import STEPS_FOLDER
    from revt_hf.experiments.slurm_settings import load_settings
    from revt_hf.experiments.stages import Call
    from revt_hf.experiments.submit import submit_command

    flags = {
        "partition": partition,
        "account": account,
        "time": time,
        "gpus": gpus,
        "cpus": cpus,
        "memory": memory,
        "launcher": launcher,
    }
    begun = not only_print or (output / STEPS_FOLDER).is_dir()
    read = [experiment, slurm]
    check_output_file(json_file, inputs=read, outputs=[] if begun else [output])
    call = Call(experiment, output, tuple(overrides or ()))
    submit_command(call, load_settings(slurm, flags), only_print, json_file, quiet)


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to a panel of ``revt --help``."""
    app.command(rich_help_panel=panel)(run)
    app.command(rich_help_panel=panel)(submit)
