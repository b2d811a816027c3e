"""The ``revt data`` commands."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from revt_hf.cli.options import (
    DomainOptions,
    Json,
    OutputOptions,
    Overwrite,
    Quiet,
    Split,
    parse_max_size,
    with_options,
)
from revt_hf.core.errors import UserError, counted, say

if TYPE_CHECKING:
    from revt_hf.data.domains.opening import Format

EXIT_BAD_DATA = 2

data_app = typer.Typer(
    name="data", help="Inspect, verify and prepare datasets.", no_args_is_help=True
)

Domain = Annotated[str, typer.Argument(help="Domain; revt data list shows all.")]
Threads = Annotated[
    int | None,
    typer.Option("--workers", min=1, max=256, help="Number of threads; default: all cores."),
]


class OutputFormat(StrEnum):
    """Formats of ``revt data prepare``."""

    webp = "webp"
    png = "png"
    raw = "raw"
    parquet = "parquet"


@data_app.command("list")
def list_domains(json_file: Json = None) -> None:
    """List all datasets: kind, images, license, where to get them."""
    from rich.console import Console

    from revt_hf.data_tools.inspection import listing, listing_table

    OutputOptions(json_file).finish(listing())
    Console().print(listing_table())


@data_app.command("verify")
@with_options
def verify_command(
    name: Domain,
    settings: DomainOptions,
    report: OutputOptions,
    strict: Annotated[bool, "Fail if a split is not of its official size."] = False,
    workers: Threads = None,
) -> None:
    """Read a whole dataset: layout, counts, broken files, unknown labels, class shares."""
    from revt_hf.data_tools.inspection import verify

    report.check([settings.data_dir])
    result = verify(settings.spec(name), workers, report.quiet)
    report.finish(result.to_json())
    print(result.text)
    if result.problems or (strict and not result.is_complete):
        raise typer.Exit(EXIT_BAD_DATA)


@data_app.command("show")
@with_options
def show_command(
    name: Domain,
    settings: DomainOptions,
    output: Annotated[Path, "Contact sheet (PNG) to write."],
    split: Split = "val",
    images: Annotated[int, typer.Option(min=1, help="Show at most this many images.")] = 6,
    overwrite: Overwrite = False,
    quiet: Quiet = False,  # noqa: ARG001
) -> None:
    """Draw images of a dataset with their coloured labels."""
    from revt_hf.data_tools.inspection import show

    count = show(settings.spec(name), split, output, images, overwrite)
    say(f"{counted(count, 'image')} of {name}/{split}: {output}")


@data_app.command("prepare")
@with_options
def prepare_command(
    name: Domain,
    settings: DomainOptions,
    output: Annotated[Path, "Folder to write."],
    split: Annotated[
        list[str] | None, "Split to prepare, default train; parquet takes several."
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Max size, or native. Default: 1280x720; native for parquet.",
        ),
    ] = None,
    format: Annotated[
        OutputFormat | None,
        "webp (default), png and raw are for training; parquet is a Hub dataset.",
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="REPO_ID", help="Push the parquet files to the Hub.")
    ] = None,
    private: Annotated[bool, "Make that repository private."] = False,
    license: Annotated[str | None, "Confirm the license under which images are passed on."] = None,
    workers: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Resize images once for faster training, or pack them for the Hub."""
    format = format or (OutputFormat.parquet if push else OutputFormat.webp)
    default = None if format is OutputFormat.parquet else (1280, 720)
    max_size = default if resize is None else parse_max_size(resize, "--resize")
    splits = split or ["train"]
    if format is OutputFormat.parquet:
        if workers is not None:
            raise UserError("--workers is for the formats webp, png and raw")
        from revt_hf.data_tools.export import ExportOptions, export_parquet

        options = ExportOptions(max_size, license, push, private, overwrite, quiet)
        done = export_parquet(settings.spec(name), splits, output, options)
        say(f"packed: {done}{f', pushed to {push}' if push else ''}")
        return
    if push or license or private:
        raise UserError("--push, --private and --license go with --format parquet")
    if len(splits) > 1:
        raise UserError("give one --split: each prepared folder holds one")
    from revt_hf.data_tools.prepare import prepare

    kind = cast("Format", format.value)
    record = prepare(
        settings.spec(name), splits[0], output, max_size, kind, overwrite, workers, quiet
    )
    say(
        f"prepared {counted(record.images, 'image')} of {name}/{record.split}: {output}; "
        f"in a recipe: source.prepared: {output}"
    )
