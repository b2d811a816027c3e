"""``revt run`` and ``revt submit``: parse, validate, call."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli_data import Json, Quiet

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
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings side by side; default: a core each, or one GPU."),
    ] = None,
    launcher: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="For trainings, such as 'accelerate launch'."),
    ] = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Run a whole experiment: members, merges, ensembles, scores, table and report."""
    from revt_hf.experiments.command import run_command
    from revt_hf.experiments.runner import HowToRun

    how = HowToRun(tuple(only or ()), not no_needs, jobs, launcher, quiet)
    run_command(experiment, output, overrides or [], how, dry_run, json_file)


def register(app: typer.Typer) -> None:
    """Add the commands to ``revt``."""
    app.command()(run)
