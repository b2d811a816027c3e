"""The ``revt demo`` command: parse, validate, call."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.options import Overwrite, Quiet
from revt_hf.core.errors import say


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to a panel of ``revt --help``."""
    app.command(rich_help_panel=panel)(demo)


def demo(
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Take one minute, just to see that everything runs.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train, merge and compare models on built-in street scenes, and write a report page."""
    from revt_hf.demo.run import run_demo

    page = run_demo(output, quick=quick, overwrite=overwrite, quiet=quiet)
    say(f"open {page}")
