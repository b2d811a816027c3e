"""``revt evaluate``, ``predict`` and ``benchmark``."""

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revt_hf.cli import options as common
from revt_hf.cli.options import Bounds
from revt_hf.core.errors import UserError, counted
from revt_hf.core.outputs import check_output_file, write_text

if TYPE_CHECKING:
    from revt_hf.speed.measuring import BenchmarkResult

EXIT_FAILED = 2
ClassIds = StrEnum("ClassIds", ["train", "cityscapes"])
_IMAGE, _CROP, _BATCH = (1024, 512), 512, 2


def evaluate(
    models: common.Models,
    data: common.DataOptions,
    choice: common.ProtocolOptions,
    report: common.OutputOptions,
    ensembles: Annotated[
        list[str] | None,
        "--ensemble HOW",
        "Also score all models together: logits, product, probabilities or features.",
    ] = None,
    head: Annotated[int, Bounds(1), "Model whose decode head an ensemble of features uses."] = 1,
    cost: Annotated[bool, "Also measure parameters, FLOPs, images/s and GPU memory."] = False,
    calibration: Annotated[
        bool, "Also score the confidence of pixels: ECE, Brier, NLL, AUROC, AURC."
    ] = False,
    batch_size: common.BatchSize = 1,
    workers: common.Workers = 0,
    classes: Annotated[
        str | None, "Print the mean over synthia16 or synthia13 instead of all 19 classes."
    ] = None,
    map_file: common.MapFile = None,
) -> None:
    """Score models on domains, by the paper's test protocol or another one."""
    from revt_hf.core.processes import failing_together, process_state
    from revt_hf.evaluation.evaluate import EvaluateOptions
    from revt_hf.evaluation.evaluate import evaluate as score
    from revt_hf.evaluation.result import write_results
    from revt_hf.results.formats import print_scores
    from revt_hf.results.rows import check_subset

    check_subset(classes)
    named, splits = common.named_models(models), data.splits()
    read = [path for one in splits for path in one.spec.inputs]
    report.check([*named.values(), data.recipe, map_file, *read])
    mapping = common.read_map(map_file)
    how = (tuple(ensembles or ()), head, cost, batch_size, workers)
    with failing_together(process_state()):
        protocol = choice.resolve(named.values())
    options = EvaluateOptions(*how, report.quiet, mapping, calibration)
    results = score(named, splits, protocol, options)
    if process_state().is_main_process:
        report.finish(results, write=write_results)
        print_scores(results, classes)


def predict(
    models: common.Models,
    paths: Annotated[
        list[Path], "--input PATH", "Image, folder of images or video; may be repeated."
    ],
    output: Annotated[Path, "DIR", "Folder of the results."],
    choice: common.ProtocolOptions,
    report: common.OverwriteOptions,
    save: Annotated[
        str | None,
        "KIND,...",
        "Write only maps, overlays, side-by-side or differences. "
        "Default: everything that suits the input.",
    ] = None,
    ids: Annotated[
        ClassIds, "Write train ids (0..18) or Cityscapes' ids (7, 8, 11, ...)."
    ] = ClassIds.train,
    batch_size: common.BatchSize = 1,
    workers: Annotated[int, Bounds(1, 256), "Threads that decode images."] = 2,
    map_file: common.MapFile = None,
) -> None:
    """Write class maps, overlays and model comparisons for images and videos."""
    from revt_hf.prediction.inputs import IMAGES, VIDEOS
    from revt_hf.prediction.prediction import PredictOptions, predict_files
    from revt_hf.prediction.saving import IDS, KEPT

    kinds = None if save is None else save.replace(" ", "").split(",")
    for kind in kinds or ():
        if kind not in KEPT:
            raise UserError(f"--save {kind}: use {', '.join(KEPT)}, with commas between them")
    named = common.named_models(models)
    for model in named.values():
        if Path(model).suffix.lower() in IMAGES | VIDEOS and Path(model).is_file():
            raise UserError(
                f"{model} is not a model: put --input before each image, or name their folder"
            )
    # A JSON file in a folder of images is not an image.
    is_json = report.json_file is not None and report.json_file.suffix == ".json"
    read = [path for path in paths if path.is_file() or not is_json]
    report.check([*named.values(), map_file, *read], [output])
    options = PredictOptions(
        kept=None if kinds is None else tuple(kind for kind in KEPT if kind in kinds),
        ids=IDS[list(ClassIds).index(ids)],
        protocol=choice.resolve(named.values()),
        batch_size=batch_size,
        workers=workers,
        overwrite=report.overwrite,
        quiet=report.quiet,
        mapping=common.read_map(map_file),
    )
    done = predict_files(named, paths, output, options)
    failed = f", {len(done.failed)} failed" if done.failed else ""
    remark = f"predicted {counted(len(done.images), 'input')}{failed}: {output}"
    report.finish(done.to_json(), remark=remark)
    if done.failed:
        raise typer.Exit(EXIT_FAILED)


@dataclass(frozen=True)
class Benchmark:
    """What both benchmarks take."""

    sizes: Annotated[
        list[str] | None,
        "--size",
        "Also measure b0 to b5 with random weights. "
        "Default without models: all six, with --train b0.",
    ] = None
    warm_up: Annotated[
        int | None, Bounds(0), "Images or steps before the timed ones. Default: 5 images, 3 steps."
    ] = None
    device: Annotated[str | None, "Use cpu, cuda or cuda:N. Default: a GPU if there is one."] = None

    def on_gpu(self) -> bool:
        from revt_hf.speed.measuring import chosen_device

        return chosen_device(self.device).type == "cuda"


@dataclass(frozen=True)
class PredictBenchmark:
    """Options without --train."""

    variant: Annotated[
        list[str] | None, "Run eager, sdpa, folded, bf16 or compiled. Default: all of them."
    ] = None
    image: Annotated[str | None, "WIDTHxHEIGHT", "Size of the image. Default: 1024x512."] = None
    max_size: Annotated[
        str | None,
        "WIDTHxHEIGHT",
        "Resize the image to fit this size, or native to keep it. Default: native.",
    ] = None
    images: Annotated[
        int | None, Bounds(1), "Number of timed images. Default: 200 on a GPU, 20 on a CPU."
    ] = None
    frame_rate: Annotated[
        bool | None, "--frame-rate/--no-frame-rate", "Measure images/s at batch 1. Default: yes."
    ] = None
    best_batch: Annotated[
        bool | None,
        "--best-batch/--no-best-batch",
        "Search for the batch size with the most images/s. Default: yes.",
    ] = None

    def measure(self, models: dict[str, str], shared: Benchmark, quiet: bool) -> "BenchmarkResult":
        from revt_hf.speed.inference import InferenceOptions, inference_benchmark

        size = _IMAGE if self.image is None else common.parse_max_size(self.image, "--image")
        if size is None:
            raise UserError("--image native: write WIDTHxHEIGHT, such as 1024x512")
        options = InferenceOptions(
            image=size[::-1],
            max_size=None if self.max_size is None else common.parse_max_size(self.max_size),
            images=self.images or (200 if shared.on_gpu() else 20),
            warm_up=5 if shared.warm_up is None else shared.warm_up,
            frame_rate=self.frame_rate is not False,
            best_batch=self.best_batch is not False,
        )
        sizes, variants = shared.sizes or [], self.variant or []
        return inference_benchmark(models, sizes, variants, options, shared.device, quiet)


@dataclass(frozen=True)
class TrainBenchmark:
    """Options with --train."""

    recipe: Annotated[
        Path | None,
        "With --train: take model, crop and batch size from this recipe and also time "
        "data loading.",
    ] = None
    crop: Annotated[
        int | None, Bounds(32, 2**15), "With --train: crop size in pixels. Default: 512."
    ] = None
    batch_size: Annotated[int | None, Bounds(1), "With --train: crops in a step. Default: 2."] = (
        None
    )
    steps: Annotated[
        int | None,
        Bounds(1),
        "With --train: number of timed steps. Default: 50 on a GPU, 10 on a CPU.",
    ] = None
    workers: Annotated[
        int | None,
        Bounds(0, 256),
        "With --train and --recipe: processes that load crops. Default: the recipe's.",
    ] = None

    def measure(self, models: dict[str, str], shared: Benchmark, quiet: bool) -> "BenchmarkResult":
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


def benchmark(
    shared: Benchmark,
    inference: PredictBenchmark,
    training: TrainBenchmark,
    report: common.OverwriteOptions,
    models: common.OptionalModels = None,
    train: Annotated[bool, "Measure training steps instead of predictions."] = False,
    markdown: Annotated[Path | None, "FILE", "Write the tables to this file as Markdown."] = None,
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

    named = common.named_models(models or [])
    inputs = [*named.values(), training.recipe]
    check_output_file(markdown, report.overwrite, inputs, [report.json_file])
    report.check(inputs)
    result = (training if train else inference).measure(named, shared, report.quiet)
    report.finish(result.to_json())
    if markdown is not None:
        write_text(markdown, "\n".join(map(markdown_text, result.tables)))
    print_layouts(result.tables)
