"""``revt table``: parse, validate, call."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.data import Json, Overwrite, Quiet
from revt_hf.core.errors import UserError, say

EXIT_STALE = 1


def table(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Result files (JSON) of revt evaluate and revt run, and folders of them."
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(help="terminal, markdown, latex, csv or html.")
    ] = "terminal",
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it here.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="The mean over synthia16 or synthia13, not over all 19.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Only evaluations by this one.")] = None,
    per_model: Annotated[bool, typer.Option("--per-model", help="A row for each network.")] = False,
    paper: Annotated[
        str | None,
        typer.Option(help="Also the paper's rows that nobody measured: gta5, synthia or all."),
    ] = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Also parameters, FLOPs, speed and memory.")
    ] = False,
    update: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Renew the tables between a Markdown file's comments."),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Exit code 1 if they are not up to date.")
    ] = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """One table of many evaluations: rows are models, columns domains, beside the paper's."""
    from revt_hf.core.outputs import check_output_file, write_text
    from revt_hf.evaluation.result import read_results, write_results
    from revt_hf.results.formats import TableFormat, formatted, print_tables, table_format
    from revt_hf.results.matrix import build_tables
    from revt_hf.results.rows import TableOptions
    from revt_hf.results.section import Request, renewed

    options = TableOptions(classes, protocol, per_model, paper, cost)
    document = update or check
    if document is not None:
        if (update and check) or format != "terminal" or output or json_file:
            raise UserError("--update and --check go without --format, --output and --json")
        if not results and options != TableOptions():
            raise UserError("name RESULTS, or leave all options to the comment in the file")
        request = Request(tuple(results), options) if results else None
        now, renewed_text = renewed(document, request)
        if update is not None and now != renewed_text:
            write_text(document, renewed_text)
        elif check is not None and now != renewed_text:
            print(f"stale: {document}; revt table --update {document} renews it", file=sys.stderr)
            raise typer.Exit(EXIT_STALE)
        if not quiet:
            say(f"up to date: {document}")
        return
    if not results:
        raise UserError("name RESULTS: evaluations (JSON) or folders of them")
    chosen = table_format(format)
    found = read_results(results)
    # Tables may lie in the folders that they are made from.
    read = {one.path for one in found}
    check_output_file(output, overwrite, read, [json_file])
    check_output_file(json_file, inputs=read)
    tables = build_tables(found, options)
    if json_file is not None:
        write_results(json_file, [one.compact() for one in found])
    if output is not None:
        write_text(output, formatted(tables, chosen))
        if not quiet:
            say(f"written: {output}")
    elif chosen is TableFormat.terminal:
        print_tables(tables)
    else:
        print(formatted(tables, chosen), end="")


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to a panel of ``revt --help``."""
    app.command(rich_help_panel=panel)(table)
