"""``revt benchmark``: parse, validate, call."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revt_hf.cli.data import Json, Overwrite, Quiet
from revt_hf.core.errors import UserError

if TYPE_CHECKING:
    from revt_hf.speed.command import InferenceResult, TrainingResult

IMAGE, CROP, BATCH = (1024, 512), 512, 2


def benchmark(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="SegFormer folders or Hub ids.")
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", help="b0 to b5, random weights; default: all six, for --train b0."),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", help="eager, sdpa, folded, bf16 or compiled; default: all."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Its size, WIDTHxHEIGHT; default: 1024x512.")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(help="Resized to WIDTHxHEIGHT for the network; default: native, not at all."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Timed images; default: 200 on a GPU, 20 on a CPU."),
    ] = None,
    frame_rate: Annotated[
        bool | None,
        typer.Option("--frame-rate/--no-frame-rate", help="Images/s at batch 1; default: yes."),
    ] = None,
    best_batch: Annotated[
        bool | None,
        typer.Option("--best-batch/--no-best-batch", help="And at the best one; default: yes."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Training steps and loading instead of prediction.")
    ] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Of --train: also load its crops; its network, crop and batch."),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(min=32, max=2**15, help="Of --train: pixels of a side; default: 512."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Of --train: crops in a step; default: 2.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Of --train: timed steps; default: 50 on a GPU, 10 on a CPU."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, max=256, help="Of --train --recipe: processes that load; default: its own."
        ),
    ] = None,
    warm_up: Annotated[
        int | None,
        typer.Option(min=0, help="Images (5) or steps (3) before the timed ones."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N; default: a GPU if there is one.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the tables here as Markdown.")
    ] = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """How fast models predict or train here: images/s, parameters, FLOPs, peak memory."""
    of_predictions = {
        "--variant": variants,
        "--image": image,
        "--max-size": max_size,
        "--images": images,
        "--frame-rate": frame_rate,
        "--best-batch": best_batch,
    }
    of_training = {
        "--recipe": recipe,
        "--crop": crop,
        "--batch-size": batch_size,
        "--steps": steps,
        "--workers": workers,
    }
    for flag, value in (of_predictions if train else of_training).items():
        if value not in (None, []):
            raise UserError(f"{flag} goes {'without' if train else 'with'} --train")
    if workers is not None and recipe is None:
        raise UserError("--workers goes with --recipe: without one nothing is loaded")
    from revt_hf.core.outputs import write_json, write_text
    from revt_hf.results.formats import markdown as markdown_text
    from revt_hf.results.formats import print_layouts
    from revt_hf.speed.command import check_outputs

    check_outputs(markdown, json_file, overwrite, [*(models or []), *([recipe] if recipe else [])])
    result: InferenceResult | TrainingResult
    if train:
        fields = crop, batch_size, steps, warm_up
        result = _training(models or [], sizes or [], recipe, fields, workers, device, quiet)
    else:
        switches = frame_rate is not False, best_batch is not False
        views = image, max_size, images, warm_up
        result = _inference(
            models or [], sizes or [], variants or [], views, switches, device, quiet
        )
    layouts = result.layouts()
    if json_file is not None:
        write_json(json_file, result.to_json())
    if markdown is not None:
        write_text(markdown, "\n".join(map(markdown_text, layouts)))
    print_layouts(layouts)


def _inference(
    models: list[str],
    sizes: list[str],
    variants: list[str],
    views: tuple[str | None, str | None, int | None, int | None],
    switches: tuple[bool, bool],
    device: str | None,
    quiet: bool,
) -> "InferenceResult":
    from revt_hf.cli.options import parse_max_size
    from revt_hf.speed.command import inference_benchmark
    from revt_hf.speed.machine import chosen_device
    from revt_hf.speed.prediction import InferenceOptions

    image, max_size, images, warm_up = views
    width, height = IMAGE
    if image is not None:
        parsed = parse_max_size(image, "--image")
        if parsed is None:
            raise UserError("--image native: write WIDTHxHEIGHT, such as 1024x512")
        width, height = parsed
    default = 200 if chosen_device(device).type == "cuda" else 20
    options = InferenceOptions(
        image=(height, width),
        max_size=None if max_size is None else parse_max_size(max_size),
        images=images or default,
        warm_up=5 if warm_up is None else warm_up,
        frame_rate=switches[0],
        best_batch=switches[1],
    )
    return inference_benchmark(models, sizes, variants, options, device, quiet)


def _training(
    models: list[str],
    sizes: list[str],
    recipe: Path | None,
    fields: tuple[int | None, int | None, int | None, int | None],
    workers: int | None,
    device: str | None,
    quiet: bool,
) -> "TrainingResult":
    from revt_hf.config.recipe import load_recipe
    from revt_hf.speed.command import training_benchmark
    from revt_hf.speed.machine import chosen_device
    from revt_hf.speed.training import TrainingOptions

    loaded = None if recipe is None else load_recipe(recipe)
    crop, batch, steps, warm_up = fields
    side = crop or (loaded and loaded.augmentation.crop) or CROP
    options = TrainingOptions(
        crop=(side, side) if isinstance(side, int) else side,
        batch=batch or (loaded.train.batch_size if loaded else BATCH),
        steps=steps or (50 if chosen_device(device).type == "cuda" else 10),
        warm_up=3 if warm_up is None else warm_up,
    )
    if workers is None:
        workers = loaded.train.workers if loaded else 0
    named = None if loaded is None else (str(recipe), loaded)
    return training_benchmark(models, sizes, options, named, workers, device, quiet)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(benchmark)
