"""``revt predict``: parse, validate, call."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.data import Json, Quiet
from revt_hf.cli.evaluate import Bound, ProtocolName
from revt_hf.core.errors import UserError, say

EXIT_FAILED = 2


class MapIds(StrEnum):
    """What class maps hold."""

    train = "train"
    cityscapes = "cityscapes"


def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, folders of them, videos.")],
    models: Annotated[
        list[str],
        typer.Option("--model", help="A SegFormer folder or Hub id; several are compared."),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder of results.")],
    save: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT,...",
            help="maps, overlays, side-by-side, differences; default: all that suits.",
        ),
    ] = None,
    ids: Annotated[
        MapIds, typer.Option(help="Train ids (0..18), or Cityscapes' own (7, 8, 11, ...).")
    ] = MapIds.train,
    protocol: ProtocolName = None,
    max_size: Bound = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images of one size that go through a network together.")
    ] = 1,
    workers: Annotated[
        int,
        typer.Option(min=1, max=256, help="Threads that decode images while the networks run."),
    ] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder that has files already.")
    ] = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Segment images and videos: class maps, overlays, models side by side."""
    from revt_hf.core.outputs import check_output_file, write_json
    from revt_hf.predict.command import PredictOptions, predict_command
    from revt_hf.predict.saving import IDS, KEPT

    kept = None if save is None else tuple(dict.fromkeys(save.replace(" ", "").split(",")))
    for kind in kept or ():
        if kind not in KEPT:
            raise UserError(f"--save {kind}: use {', '.join(KEPT)}, with commas between them")
    options = PredictOptions(
        kept=None if kept is None else tuple(kind for kind in KEPT if kind in kept),
        ids=next(name for name in IDS if name == ids.value),
        protocol=protocol,
        max_size=max_size,
        batch_size=batch_size,
        workers=workers,
        overwrite=overwrite,
        quiet=quiet,
    )
    # In a folder of images a JSON file is none.
    beside = json_file is not None and json_file.suffix == ".json"
    read = [place for place in images if place.is_file() or not beside]
    check_output_file(json_file, inputs=[*models, *read], outputs=[output])
    done = predict_command(images, models, output, options)
    if json_file is not None:
        write_json(json_file, done.to_json())
    if not quiet:
        failed = f", {len(done.failed)} failed" if done.failed else ""
        what = "image or video" if len(done.images) == 1 else "images and videos"
        say(f"{len(done.images)} {what}{failed}: {output}")
    if done.failed:
        raise typer.Exit(EXIT_FAILED)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(predict)
