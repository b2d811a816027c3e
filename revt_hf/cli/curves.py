"""``revt curves``: parse, validate, call."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.options import Json, Overwrite, Quiet
from revt_hf.core.errors import counted, say


def curves(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Result files (JSON) of revt evaluate and revt run, and folders of them."
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The figure (PNG).")],
    protocol: Annotated[str | None, typer.Option(help="Only evaluations by this one.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="The mean over synthia16 or synthia13, not over all 19.")
    ] = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw mIoU over the severity of corruptions: members against their merges."""
    from revt_hf.core.outputs import check_output_file, check_suffix, write_json
    from revt_hf.evaluation.result import read_results
    from revt_hf.results.curves import build_curves
    from revt_hf.results.curves_chart import draw_curves

    loaded = read_results(results)
    read = {one.path for one in loaded}
    check_suffix(output, ".png")
    check_output_file(output, overwrite, read, [json_file])
    check_output_file(json_file, inputs=read)
    found = build_curves(loaded, protocol, classes)
    draw_curves(found, output)
    if json_file is not None:
        write_json(json_file, found.to_json())
    if not quiet:
        say(f"{counted(len(found.curves), 'curve')}: {output}")


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to a panel of ``revt --help``."""
    app.command(rich_help_panel=panel)(curves)
