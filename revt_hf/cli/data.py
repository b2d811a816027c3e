"""The ``revt data`` commands: parse, validate, call."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from revt_hf.core.errors import UserError, counted, say

EXIT_BAD_DATA = 2

data_app = typer.Typer(help="Look at datasets, check and prepare them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A domain; revt data list shows them.")]
DataDir = Annotated[Path | None, typer.Option(help="The folder of the domain's data.")]
Config = Annotated[str | None, typer.Option(help="The domain's configuration.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the domain."),
]
Workers = Annotated[int | None, typer.Option(min=1, max=256, help="Threads; default: all cores.")]


def _hush(quiet: bool) -> bool:
    if quiet:
        logging.getLogger("revt_hf").setLevel(logging.WARNING)
    return quiet


def _writable(json_file: Path | None) -> Path | None:
    """Before the work: its results would be lost."""
    if json_file is not None:
        from revt_hf.core.outputs import check_output_file

        check_output_file(json_file)
    return json_file


Quiet = Annotated[
    bool, typer.Option("--quiet", help="No progress bars or remarks.", callback=_hush)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write results here.", callback=_writable),
]


class OutputFormat(StrEnum):
    """How ``revt data prepare`` writes images."""

    webp = "webp"
    png = "png"
    raw = "raw"
    parquet = "parquet"


@data_app.command("list")
def list_domains(json_file: Json = None) -> None:
    """Every dataset: kind, images, license, where to get it."""
    from rich.console import Console

    from revt_hf.core.outputs import write_json
    from revt_hf.data_tools.show import listing, listing_table

    if json_file is not None:
        write_json(json_file, listing())
    Console().print(listing_table())


@data_app.command("verify")
def verify_command(
    name: Name,
    data_dir: DataDir = None,
    config: Config = None,
    options: Options = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Other numbers than the official ones are a failure.")
    ] = False,
    workers: Workers = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Read a whole dataset: layout, counts, broken files, unknown labels, class shares."""
    from revt_hf.cli.options import key_values
    from revt_hf.core.outputs import check_output_file, write_json
    from revt_hf.data_tools.show import verified_text
    from revt_hf.data_tools.verify import verify

    check_output_file(json_file, inputs=[data_dir])
    result = verify(name, data_dir, config, key_values(options), workers, quiet)
    if json_file is not None:
        write_json(json_file, result.to_json())
    print(verified_text(result))
    complete = all(count.expected in (None, count.images) for count in result.splits.values())
    if result.problems or (strict and not complete):
        raise typer.Exit(EXIT_BAD_DATA)


@data_app.command("show")
def show_command(
    name: Name,
    output: Annotated[Path, typer.Option(help="The contact sheet (PNG).")],
    data_dir: DataDir = None,
    split: Annotated[str, typer.Option(help="The domain's split.")] = "val",
    config: Config = None,
    options: Options = None,
    images: Annotated[int, typer.Option(min=1, help="How many images at most.")] = 6,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw images of a dataset with their coloured labels."""
    from revt_hf.cli.options import key_values
    from revt_hf.data_tools.show import show

    count = show(name, split, output, data_dir, config, key_values(options), images, overwrite)
    say(f"{counted(count, 'image')} of {name}/{split}: {output}")


@data_app.command("prepare")
def prepare_command(
    name: Name,
    output: Annotated[Path, typer.Option(help="The folder to make.")],
    data_dir: DataDir = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="The split; default: train. Parquet takes several."),
    ] = None,
    config: Config = None,
    options: Options = None,
    resize: Annotated[
        str | None,
        typer.Option(
            help="Max size WIDTHxHEIGHT, or native. Default: 1280x720, for parquet native."
        ),
    ] = None,
    format: Annotated[
        OutputFormat | None,
        typer.Option(
            help="webp (default), png and raw are for training; parquet is a Hub dataset."
        ),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="REPO_ID", help="Put the parquet files on the Hub.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make that repository private.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Confirm the license under which images are passed on.")
    ] = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Resize images once for faster training, or pack them for the Hub."""
    from revt_hf.cli.options import key_values, parse_max_size

    format = format or (OutputFormat.parquet if push else OutputFormat.webp)
    default = None if format is OutputFormat.parquet else (1280, 720)
    max_size = default if resize is None else parse_max_size(resize, "--resize")
    splits = tuple(split or ["train"])
    if format is OutputFormat.parquet:
        if workers is not None:
            raise UserError("--workers is for the formats webp, png and raw")
        from revt_hf.data_tools.export import Export, export_parquet

        request = Export(name, data_dir, config, key_values(options), splits, max_size, license)
        done = export_parquet(request, output, overwrite, push, private, quiet)
        say(f"packed: {done}{f', pushed to {push}' if push else ''}")
        return
    if push or license or private:
        raise UserError("--push, --private and --license go with --format parquet")
    if len(splits) > 1:
        raise UserError("give one --split: each prepared folder holds one")
    from revt_hf.config.domain_spec import DomainSpec
    from revt_hf.data.domains.prepared import SUFFIXES
    from revt_hf.data_tools.prepare import prepare

    kind = next(name for name in SUFFIXES if name == format.value)
    spec = DomainSpec(
        domain=name,
        data_dir=str(data_dir) if data_dir else None,
        config=config,
        options=key_values(options),
    )
    record = prepare(spec, splits[0], output, max_size, kind, overwrite, workers, quiet)
    say(
        f"prepared {counted(record.images, 'image')} of {name}/{record.split}: {output}; "
        f"in a recipe: source.prepared: {output}"
    )
