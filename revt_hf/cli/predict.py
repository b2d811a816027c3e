"""``revt predict``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.options import (
    BatchSize,
    Json,
    Models,
    Overwrite,
    ProtocolChoice,
    Quiet,
    named_models,
    with_options,
)
from revt_hf.core.errors import UserError, counted, say

EXIT_FAILED = 2


class ClassIds(StrEnum):
    """The ids in class maps."""

    train = "train"
    cityscapes = "cityscapes"


@with_options
def predict(
    models: Models,
    paths: Annotated[
        list[Path],
        typer.Option(
            "--input", metavar="PATH", help="Image, folder of images or video; may be repeated."
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")],
    choice: ProtocolChoice,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,...",
            help="Write only maps, overlays, side-by-side or differences. "
            "Default: everything that suits the input.",
        ),
    ] = None,
    ids: Annotated[
        ClassIds, typer.Option(help="Write train ids (0..18) or Cityscapes' ids (7, 8, 11, ...).")
    ] = ClassIds.train,
    batch_size: BatchSize = 1,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Threads that decode images.")] = 2,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Write class maps, overlays and model comparisons for images and videos."""
    from revt_hf.core.outputs import check_output_file, write_json
    from revt_hf.predict.inputs import IMAGES, VIDEOS
    from revt_hf.predict.prediction import PredictOptions, predict_files
    from revt_hf.predict.saving import IDS, KEPT

    kinds = None if save is None else save.replace(" ", "").split(",")
    for kind in kinds or ():
        if kind not in KEPT:
            raise UserError(f"--save {kind}: use {', '.join(KEPT)}, with commas between them")
    named = named_models(models)
    for model in named.values():
        if Path(model).suffix.lower() in IMAGES | VIDEOS and Path(model).is_file():
            raise UserError(
                f"{model} is not a model: put --input before each image, or name their folder"
            )
    # A JSON file in a folder of images is not an image.
    is_json = json_file is not None and json_file.suffix == ".json"
    read = [path for path in paths if path.is_file() or not is_json]
    check_output_file(json_file, inputs=[*named.values(), *read], outputs=[output])
    options = PredictOptions(
        kept=None if kinds is None else tuple(kind for kind in KEPT if kind in kinds),
        ids=next(name for name in IDS if name == ids.value),
        protocol=choice.resolve(list(named.values())),
        batch_size=batch_size,
        workers=workers,
        overwrite=overwrite,
        quiet=quiet,
    )
    done = predict_files(named, paths, output, options)
    if json_file is not None:
        write_json(json_file, done.to_json())
    if not quiet:
        failed = f", {len(done.failed)} failed" if done.failed else ""
        say(f"predicted {counted(len(done.images), 'input')}{failed}: {output}")
    if done.failed:
        raise typer.Exit(EXIT_FAILED)


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to a panel of ``revt --help``."""
    app.command(rich_help_panel=panel)(predict)
