"""The ``revt data`` commands: parse, validate, call."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from revt_hf.cli.options import (
    Config,
    DataDir,
    DataSelection,
    DomainOptions,
    Json,
    Overwrite,
    Quiet,
    Split,
    parse_max_size,
    with_options,
)
from revt_hf.core.errors import UserError, counted, say

if TYPE_CHECKING:
    from revt_hf.config.domain_spec import DomainSpec
    from revt_hf.data.domains.prepared import Format

EXIT_BAD_DATA = 2

data_app = typer.Typer(help="Inspect, verify and prepare datasets.", no_args_is_help=True)

Threads = Annotated[
    int | None,
    typer.Option("--workers", min=1, max=256, help="Number of threads; default: all cores."),
]


@dataclass(frozen=True)
class DomainChoice:
    """The domain of a command."""

    name: Annotated[str, typer.Argument(help="Domain; revt data list shows all.")]
    data_dir: DataDir = None
    config: Config = None
    options: DomainOptions = None

    def spec(self) -> "DomainSpec":
        """The domain as recipes name it."""
        return DataSelection(None, self.name, self.data_dir, self.config, self.options).spec()


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

    from revt_hf.core.outputs import write_json
    from revt_hf.data_tools.show import listing, listing_table

    if json_file is not None:
        write_json(json_file, listing())
    Console().print(listing_table())


@data_app.command("verify")
@with_options
def verify_command(
    domain: DomainChoice,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if a split is not of its official size.")
    ] = False,
    workers: Threads = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Read a whole dataset: layout, counts, broken files, unknown labels, class shares."""
    from revt_hf.core.outputs import check_output_file, write_json
    from revt_hf.data_tools.verify import verify

    check_output_file(json_file, inputs=[domain.data_dir])
    result = verify(domain.spec(), workers, quiet)
    if json_file is not None:
        write_json(json_file, result.to_json())
    print(result.text)
    if result.problems or (strict and not result.is_complete):
        raise typer.Exit(EXIT_BAD_DATA)


@data_app.command("show")
@with_options
def show_command(
    domain: DomainChoice,
    output: Annotated[Path, typer.Option(help="Contact sheet (PNG) to write.")],
    split: Split = "val",
    images: Annotated[int, typer.Option(min=1, help="Show at most this many images.")] = 6,
    overwrite: Overwrite = False,
    quiet: Quiet = False,  # noqa: ARG001
) -> None:
    """Draw images of a dataset with their coloured labels."""
    from revt_hf.data_tools.show import show

    count = show(domain.spec(), split, output, images, overwrite)
    say(f"{counted(count, 'image')} of {domain.name}/{split}: {output}")


@data_app.command("prepare")
@with_options
def prepare_command(
    domain: DomainChoice,
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split to prepare, default train; parquet takes several."),
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
        typer.Option(
            help="webp (default), png and raw are for training; parquet is a Hub dataset."
        ),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="REPO_ID", help="Push the parquet files to the Hub.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make that repository private.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Confirm the license under which images are passed on.")
    ] = None,
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
        done = export_parquet(domain.spec(), splits, output, options)
        say(f"packed: {done}{f', pushed to {push}' if push else ''}")
        return
    if push or license or private:
        raise UserError("--push, --private and --license go with --format parquet")
    if len(splits) > 1:
        raise UserError("give one --split: each prepared folder holds one")
    from revt_hf.data_tools.prepare import prepare

    kind = cast("Format", format.value)
    record = prepare(domain.spec(), splits[0], output, max_size, kind, overwrite, workers, quiet)
    say(
        f"prepared {counted(record.images, 'image')} of {domain.name}/{record.split}: {output}; "
        f"in a recipe: source.prepared: {output}"
    )


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to a panel of ``revt --help``."""
    app.add_typer(data_app, name="data", rich_help_panel=panel)
