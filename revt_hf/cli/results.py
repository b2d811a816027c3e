"""``revt table``, ``revt report`` and ``revt curves``."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revt_hf.cli import options as common
from revt_hf.core.errors import UserError, counted, say
from revt_hf.core.outputs import check_output_file, check_suffix, write_text

if TYPE_CHECKING:
    from revt_hf.results.tables import TableOptions

EXIT_STALE = 1
_COMMAND = ("revt", "table")
_INTRO = (
    "Members are fine-tuned on one domain, each with its own augmentation. ReVT averages their "
    "encoders and keeps one decode head: one network, at the cost of one. The domains on the "
    "right were never trained or selected on."
)
_RESULTS = typer.Argument(
    help="Result files (JSON) of revt evaluate and revt run, and folders of them."
)
Classes = Annotated[str | None, "Average over synthia16 or synthia13 instead of all 19 classes."]
ResultProtocol = Annotated[str | None, "--protocol", "Use only results by this protocol."]


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a table shows."""

    classes: Classes = None
    protocol: ResultProtocol = None
    per_model: Annotated[bool, "Show a row for each network."] = False
    paper: Annotated[
        str | None, "Add the paper's rows that have no result: gta5, synthia or all."
    ] = None
    compare: Annotated[
        str | None,
        "METHODS",
        "Add published numbers of others, such as rein,hrda, or all, in columns of their own.",
    ] = None
    cost: Annotated[bool, "Show parameters, FLOPs, speed and memory."] = False
    calibration: Annotated[bool, "Show ECE, Brier, NLL, AUROC and AURC of confidence."] = False

    def options(self) -> "TableOptions":
        from revt_hf.results.tables import TableOptions

        return TableOptions(**dataclasses.asdict(self))

    def words(self) -> list[str]:
        """The same as words of the command line."""
        words = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                words += [flag] if value is True else [flag, value]
        return words


def table(
    results: Annotated[list[Path] | None, _RESULTS] = None,
    *,
    shown: Shown,
    to: common.OverwriteOptions,
    format: Annotated[str, "Write terminal, markdown, latex, csv or html."] = "terminal",
    output: Annotated[Path | None, "FILE", "Write the table to this file."] = None,
    update: Annotated[
        Path | None, "FILE", "Renew the tables between a Markdown file's comments."
    ] = None,
    check: Annotated[
        Path | None, "FILE", "Exit with code 1 if these tables are out of date."
    ] = None,
) -> None:
    """Print one table of many results: rows are models, columns are domains."""
    from revt_hf.evaluation.result import read_results, write_results
    from revt_hf.results.formats import formatted, table_format
    from revt_hf.results.tables import build_tables

    options = shown.options()
    document = update or check
    if document is not None:
        if (update and check) or format != "terminal" or output or to.json_file:
            raise UserError("--update and --check go without --format, --output and --json")
        if not results and shown != Shown():
            raise UserError("name RESULTS, or leave all options to the comment in the file")
        _renew(document, results, shown, check is not None, to.quiet)
        return
    if not results:
        raise UserError("name RESULTS: result files (JSON) or folders of them")
    chosen = table_format(format)
    found = read_results(results)
    # Tables may lie in the folders that they are made from.
    read = {one.path for one in found}
    check_output_file(output, to.overwrite, read, [to.json_file])
    to.check(read)
    tables = build_tables(found, options)
    to.finish([one.compact() for one in found], write=write_results)
    if output is not None:
        write_text(output, formatted(tables, chosen))
        if not to.quiet:
            say(f"written: {output}")
    elif format == "terminal":
        from revt_hf.results.formats import print_layouts

        print_layouts(tables)
    else:
        print(formatted(tables, chosen), end="")


def _renew(
    document: Path, results: Sequence[Path] | None, shown: Shown, check: bool, quiet: bool
) -> None:
    words = None
    if results:
        paths = [os.path.relpath(result, document.parent) for result in results]
        words = [*_COMMAND, *paths, *shown.words()]
    now, fresh = renewed_document(document, words)
    if now != fresh and check:
        print(f"stale: {document}; revt table --update {document} renews it", file=sys.stderr)
        raise typer.Exit(EXIT_STALE)
    if now != fresh:
        write_text(document, fresh)
    if not quiet:
        say(f"up to date: {document}")


def renewed_document(document: Path, words: Sequence[str] | None = None) -> tuple[str, str]:
    """A Markdown file as it is, and with its tables renewed; ``words`` replace its only command."""
    from revt_hf.evaluation.result import read_results
    from revt_hf.results.formats import TableFormat, formatted
    from revt_hf.results.markdown import renewed
    from revt_hf.results.tables import build_tables

    def made(command: Sequence[str], place: str) -> str:
        results, shown = _parsed(command, place)
        found = read_results([document.parent / name for name in results])
        return formatted(build_tables(found, shown.options()), TableFormat.markdown)

    return renewed(document, made, words)


def _parsed(words: Sequence[str], place: str) -> tuple[Sequence[Path], Shown]:
    if tuple(words[: len(_COMMAND)]) != _COMMAND or len(words) == len(_COMMAND):
        raise UserError(f"{place} is to be followed by: revt table RESULTS...")
    app = typer.Typer()
    app.command()(_in_comment)
    command = typer.main.get_command(app)
    try:
        values: dict[str, Any] = command.make_context("table", [*words[len(_COMMAND) :]]).params
    except Exception as error:
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        raise UserError(f"{place}: {str(describe()).rstrip('.')}") from error
    return values.pop("results"), Shown(**values)


@common.with_options
def _in_comment(results: Annotated[list[Path], _RESULTS], *, shown: Shown) -> None:
    """The part of ``revt table`` that a comment may hold."""


def report(
    models: common.Models,
    output: Annotated[Path, "FILE", "Write the page (HTML) here."],
    recipe: Annotated[Path, "Use the source-val and target splits of this recipe."],
    choice: common.ProtocolOptions,
    to: common.OverwriteOptions,
    init: Annotated[Path | None, "MODEL", "Initial weights of the members."] = None,
    calibration: Annotated[
        bool, "Also score the confidence of pixels, and draw reliability diagrams."
    ] = False,
) -> None:
    """Compare members and their merges on one page, with images.

    A folder with a merge.json is a merge; the page leads with the first one.
    """
    from revt_hf.config.recipe import load_recipe
    from revt_hf.evaluation.result import splits_of, write_results
    from revt_hf.results.page import write_page
    from revt_hf.results.report import compare, report_models

    named = common.named_models(models)
    loaded = load_recipe(recipe)
    inputs = [recipe, init, *named.values(), *loaded.inputs]
    check_output_file(output, to.overwrite, inputs, [to.json_file])
    to.check(inputs)
    check_suffix(output, ".html", ".htm")
    shown = report_models(named, init)
    folders = [model.folder for model in shown]
    protocol, notes = choice.resolve(folders), {"Models": "\n".join(map(str, folders))}
    title = "ReVT and its members"
    made = compare(
        title,
        _INTRO,
        shown,
        splits_of(loaded),
        protocol,
        notes,
        quiet=to.quiet,
        calibration=calibration,
    )
    write_page(made, output)
    to.finish(made.results, [f"open {output}"], write=write_results)


def curves(
    results: Annotated[list[Path], _RESULTS],
    output: Annotated[Path, "FILE", "Write the figure (PNG) here."],
    to: common.OverwriteOptions,
    protocol: ResultProtocol = None,
    classes: Classes = None,
) -> None:
    """Draw mIoU over the severity of corruptions: members against their merges."""
    from revt_hf.evaluation.result import read_results
    from revt_hf.results.figures import build_curves, draw_curves

    loaded = read_results(results)
    read = {one.path for one in loaded}
    check_suffix(output, ".png")
    check_output_file(output, to.overwrite, read, [to.json_file])
    to.check(read)
    found = build_curves(loaded, protocol, classes)
    draw_curves(found, output)
    to.finish(found.to_json(), remark=f"{counted(len(found.curves), 'curve')}: {output}")
