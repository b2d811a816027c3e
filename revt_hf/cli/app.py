"""All commands of ``revt``: parse, validate, call. Heavy imports stay inside the commands."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from revt_hf.cli import (
    analysis,
    benchmark,
    curves,
    data,
    demo,
    evaluate,
    experiments,
    model_folders,
    predict,
    push,
    results,
    train,
)
from revt_hf.cli.data import Json, Overwrite, Quiet
from revt_hf.cli.evaluate import Bound
from revt_hf.core.errors import say

_PANELS = {
    "Data": [data],
    "Train": [train, experiments, demo],
    "Merge": [model_folders],
    "Evaluate": [evaluate, predict, results, curves, benchmark],
    "Understand": [analysis],
    "Publish": [push],
}


class _InPanels(TyperGroup):
    """Lists commands in the order of their panels; typer lists groups of commands last."""

    def list_commands(self, ctx: Any) -> list[str]:
        panels = list(_PANELS)

        def place(name: str) -> int:
            return panels.index(getattr(self.commands[name], "rich_help_panel"))  # noqa: B009

        return sorted(super().list_commands(ctx), key=place)


app = typer.Typer(
    help="ReVT: fine-tune SegFormers, average their encoders, evaluate on unseen domains.",
    cls=_InPanels,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _panel, _modules in _PANELS.items():
    for _module in _modules:
        _module.register(app, _panel)


@app.command(rich_help_panel="Evaluate")
def report(
    output: Annotated[Path, typer.Option(help="The page (HTML).")],
    recipe: Annotated[Path, typer.Option(help="Its source-val and all its targets.")],
    members: Annotated[list[Path], typer.Option("--member", help="A member's folder.")],
    revts: Annotated[list[Path], typer.Option("--revt", help="A merge; the first leads.")],
    start: Annotated[Path | None, typer.Option(help="What the members started from.")] = None,
    max_size: Bound = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compare members and their merges on one page, with images."""
    from revt_hf.core.outputs import check_output_file
    from revt_hf.evaluation.result import write_results
    from revt_hf.results.command import report_command

    inputs = [recipe, *members, *revts, start]
    check_output_file(output, overwrite, inputs, [json_file])
    check_output_file(json_file, inputs=inputs)
    results = report_command(output, recipe, members, revts, start, max_size, quiet, overwrite)
    if json_file is not None:
        write_results(json_file, results)
    say(f"open {output}")
