"""``revt benchmark``."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revt_hf.cli.options import (
    OptionalModels,
    OverwriteOptions,
    named_models,
    parse_max_size,
    with_options,
)
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import check_output_file, write_text

if TYPE_CHECKING:
    from revt_hf.speed.measuring import BenchmarkResult

_IMAGE, _CROP, _BATCH = (1024, 512), 512, 2


@dataclass(frozen=True)
class Shared:
    """What both benchmarks take."""

    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            help="Also measure b0 to b5 with random weights. "
            "Default without models: all six, with --train b0.",
        ),
    ] = None
    warm_up: Annotated[
        int | None,
        typer.Option(
            min=0, help="Images or steps before the timed ones. Default: 5 images, 3 steps."
        ),
    ] = None
    device: Annotated[str | None, "Use cpu, cuda or cuda:N. Default: a GPU if there is one."] = None

    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        from revt_hf.speed.measuring import chosen_device

        return chosen_device(self.device).type == "cuda"


@dataclass(frozen=True)
class Inference:
    """Options without --train."""

    variant: Annotated[
        list[str] | None, "Run eager, sdpa, folded, bf16 or compiled. Default: all of them."
    ] = None
    image: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Size of the image. Default: 1024x512."),
    ] = None
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Resize the image to fit this size, or native to keep it. Default: native.",
        ),
    ] = None
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Number of timed images. Default: 200 on a GPU, 20 on a CPU."),
    ] = None
    frame_rate: Annotated[
        bool | None,
        typer.Option(
            "--frame-rate/--no-frame-rate", help="Measure images/s at batch 1. Default: yes."
        ),
    ] = None
    best_batch: Annotated[
        bool | None,
        typer.Option(
            "--best-batch/--no-best-batch",
            help="Search for the batch size with the most images/s. Default: yes.",
        ),
    ] = None

    def measure(self, models: dict[str, str], shared: Shared, quiet: bool) -> "BenchmarkResult":
        """Time predictions."""
        from revt_hf.speed.inference import InferenceOptions, inference_benchmark

        size = _IMAGE if self.image is None else parse_max_size(self.image, "--image")
        if size is None:
            raise UserError("--image native: write WIDTHxHEIGHT, such as 1024x512")
        options = InferenceOptions(
            image=size[::-1],
            max_size=None if self.max_size is None else parse_max_size(self.max_size),
            images=self.images or (200 if shared.on_gpu() else 20),
            warm_up=5 if shared.warm_up is None else shared.warm_up,
            frame_rate=self.frame_rate is not False,
            best_batch=self.best_batch is not False,
        )
        sizes, variants = shared.sizes or [], self.variant or []
        return inference_benchmark(models, sizes, variants, options, shared.device, quiet)


@dataclass(frozen=True)
class Training:
    """Options with --train."""

    recipe: Annotated[
        Path | None,
        "With --train: take model, crop and batch size from this recipe and also time "
        "data loading.",
    ] = None
    crop: Annotated[
        int | None,
        typer.Option(min=32, max=2**15, help="With --train: crop size in pixels. Default: 512."),
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="With --train: crops in a step. Default: 2.")
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --train: number of timed steps. Default: 50 on a GPU, 10 on a CPU."
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=256,
            help="With --train and --recipe: processes that load crops. Default: the recipe's.",
        ),
    ] = None

    def measure(self, models: dict[str, str], shared: Shared, quiet: bool) -> "BenchmarkResult":
        """Time training steps, and data loading of a recipe."""
        from revt_hf.config.recipe import load_recipe
        from revt_hf.speed.training import TrainingOptions, training_benchmark

        recipe = None if self.recipe is None else load_recipe(self.recipe)
        side = self.crop or (recipe and recipe.augmentation.crop) or _CROP
        options = TrainingOptions(
            crop=(side, side) if isinstance(side, int) else side,
            batch=self.batch_size or (recipe.train.batch_size if recipe else _BATCH),
            steps=self.steps or (50 if shared.on_gpu() else 10),
            warm_up=3 if shared.warm_up is None else shared.warm_up,
        )
        workers = self.workers
        if workers is None:
            workers = recipe.train.workers if recipe else 0
        named = None if recipe is None else (str(self.recipe), recipe)
        sizes = shared.sizes or []
        return training_benchmark(models, sizes, options, named, workers, shared.device, quiet)


@with_options
def benchmark(
    shared: Shared,
    inference: Inference,
    training: Training,
    report: OverwriteOptions,
    models: OptionalModels = None,
    train: Annotated[bool, "Measure training steps instead of predictions."] = False,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the tables to this file as Markdown."),
    ] = None,
) -> None:
    """Measure how fast models predict or train on this machine."""
    wrong = inference if train else training
    for field in fields(wrong):
        if getattr(wrong, field.name) not in (None, []):
            flag = f"--{field.name.replace('_', '-')}"
            raise UserError(f"{flag} goes {'without' if train else 'with'} --train")
    if training.workers is not None and training.recipe is None:
        raise UserError("--workers goes with --recipe: without one nothing is loaded")
    from revt_hf.results.formats import markdown as markdown_text
    from revt_hf.results.formats import print_layouts

    named = named_models(models or [])
    inputs = [*named.values(), training.recipe]
    check_output_file(markdown, report.overwrite, inputs, [report.json_file])
    report.check(inputs)
    result = (training if train else inference).measure(named, shared, report.quiet)
    report.finish(result.to_json())
    if markdown is not None:
        write_text(markdown, "\n".join(map(markdown_text, result.tables)))
    print_layouts(result.tables)
