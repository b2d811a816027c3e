"""``revt benchmark``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from revt_hf.cli.options import (
    Json,
    OptionalModels,
    Overwrite,
    Quiet,
    named_models,
    parse_max_size,
)
from revt_hf.core.errors import UserError

_IMAGE, _CROP, _BATCH = (1024, 512), 512, 2


def benchmark(
    models: OptionalModels = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            help="Also measure b0 to b5 with random weights. "
            "Default without models: all six, with --train b0.",
        ),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant", help="Run eager, sdpa, folded, bf16 or compiled. Default: all of them."
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Size of the image. Default: 1024x512."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Resize the image to fit this size, or native to keep it. Default: native.",
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Number of timed images. Default: 200 on a GPU, 20 on a CPU."),
    ] = None,
    frame_rate: Annotated[
        bool | None,
        typer.Option(
            "--frame-rate/--no-frame-rate", help="Measure images/s at batch 1. Default: yes."
        ),
    ] = None,
    best_batch: Annotated[
        bool | None,
        typer.Option(
            "--best-batch/--no-best-batch",
            help="Search for the batch size with the most images/s. Default: yes.",
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Measure training steps instead of predictions.")
    ] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="With --train: take model, crop and batch size from this recipe and also time "
            "data loading."
        ),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(min=32, max=2**15, help="With --train: crop size in pixels. Default: 512."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="With --train: crops in a step. Default: 2.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --train: number of timed steps. Default: 50 on a GPU, 10 on a CPU."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=256,
            help="With --train and --recipe: processes that load crops. Default: the recipe's.",
        ),
    ] = None,
    warm_up: Annotated[
        int | None,
        typer.Option(
            min=0, help="Images or steps before the timed ones. Default: 5 images, 3 steps."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Use cpu, cuda or cuda:N. Default: a GPU if there is one."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the tables to this file as Markdown."),
    ] = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Measure how fast models predict or train on this machine."""
    predicting: dict[str, Any] = {
        "--variant": variants,
        "--image": image,
        "--max-size": max_size,
        "--images": images,
        "--frame-rate": frame_rate,
        "--best-batch": best_batch,
    }
    training: dict[str, Any] = {
        "--recipe": recipe,
        "--crop": crop,
        "--batch-size": batch_size,
        "--steps": steps,
        "--workers": workers,
    }
    for flag, value in (predicting if train else training).items():
        if value not in (None, []):
            raise UserError(f"{flag} goes {'without' if train else 'with'} --train")
    if workers is not None and recipe is None:
        raise UserError("--workers goes with --recipe: without one nothing is loaded")
    from revt_hf.core.outputs import check_output_file, write_json, write_text
    from revt_hf.results.formats import markdown as markdown_text
    from revt_hf.results.formats import print_layouts

    named = named_models(models or [])
    inputs = [*named.values(), recipe]
    check_output_file(markdown, overwrite, inputs, [json_file])
    check_output_file(json_file, inputs=inputs)
    measure = _measure_training if train else _measure_inference
    given = training if train else predicting
    result = measure(named, sizes or [], given, warm_up, device, quiet)
    if json_file is not None:
        write_json(json_file, result.to_json())
    if markdown is not None:
        write_text(markdown, "\n".join(map(markdown_text, result.tables)))
    print_layouts(result.tables)


def _measure_inference(
    models: dict[str, str],
    sizes: list[str],
    given: dict[str, Any],
    warm_up: int | None,
    device: str | None,
    quiet: bool,
) -> Any:
    from revt_hf.speed.inference import InferenceOptions, inference_benchmark
    from revt_hf.speed.measuring import chosen_device

    width, height = _IMAGE
    if given["--image"] is not None:
        parsed = parse_max_size(given["--image"], "--image")
        if parsed is None:
            raise UserError("--image native: write WIDTHxHEIGHT, such as 1024x512")
        width, height = parsed
    max_size = given["--max-size"]
    options = InferenceOptions(
        image=(height, width),
        max_size=None if max_size is None else parse_max_size(max_size),
        images=given["--images"] or (200 if chosen_device(device).type == "cuda" else 20),
        warm_up=5 if warm_up is None else warm_up,
        frame_rate=given["--frame-rate"] is not False,
        best_batch=given["--best-batch"] is not False,
    )
    variants = given["--variant"] or []
    return inference_benchmark(models, sizes, variants, options, device, quiet)


def _measure_training(
    models: dict[str, str],
    sizes: list[str],
    given: dict[str, Any],
    warm_up: int | None,
    device: str | None,
    quiet: bool,
) -> Any:
    from revt_hf.config.recipe import load_recipe
    from revt_hf.speed.measuring import chosen_device
    from revt_hf.speed.training import TrainingOptions, training_benchmark

    path, workers = given["--recipe"], given["--workers"]
    recipe = None if path is None else load_recipe(path)
    side = given["--crop"] or (recipe and recipe.augmentation.crop) or _CROP
    options = TrainingOptions(
        crop=(side, side) if isinstance(side, int) else side,
        batch=given["--batch-size"] or (recipe.train.batch_size if recipe else _BATCH),
        steps=given["--steps"] or (50 if chosen_device(device).type == "cuda" else 10),
        warm_up=3 if warm_up is None else warm_up,
    )
    if workers is None:
        workers = recipe.train.workers if recipe else 0
    named = None if recipe is None else (str(path), recipe)
    return training_benchmark(models, sizes, options, named, workers, device, quiet)


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to a panel of ``revt --help``."""
    app.command(rich_help_panel=panel)(benchmark)
