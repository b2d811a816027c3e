"""How fast a training is: steps with the recipe's fields that change speed, and loading alone.

A step is what the training loop does for a batch that is on the device, without Accelerate:
forward, loss, backward, AdamW.
"""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from revt_hf.config.recipe import Model as ModelSection
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.resources import worker_count
from revt_hf.data.augment import Pipeline, build_pipeline
from revt_hf.evaluation.class_maps import Size
from revt_hf.evaluation.cost import cuda_peak_mib
from revt_hf.models.load import build_model
from revt_hf.results.layout import Layout
from revt_hf.speed import measuring
from revt_hf.speed.measuring import BenchmarkResult, Model, attempt, column, in_a_row
from revt_hf.speed.networks import SMALLEST, patch_labels, smooth_pixels
from revt_hf.speed.steps import FIRST, STEPS, StepKind, TrainingStep, adamw, shared_copy
from revt_hf.training.data import TrainingCrops, load_training, training_loader
from revt_hf.training.result import pipeline_spec

_ROUNDS = 3


@dataclass(frozen=True)
class TrainingOptions:
    """What is measured.

    Attributes:
        crop: (height, width) of a crop.
        batch: crops in a step.
        steps: timed steps of each kind.
        warm_up: steps before them.
    """

    crop: Size = (512, 512)
    batch: int = 2
    steps: int = 50
    warm_up: int = 3


@dataclass
class StepRow:
    """A kind of training step of a model; None is what was not measured."""

    model: str = column("model")
    step: str = column("training step")
    kind: StepKind | None = None
    steps_per_second: float | None = column("steps/s")  # of the median step
    images_per_second: float | None = column("images/s")
    ratio: float | None = column("x the first", decimals=2)
    # With gradients and the optimizer's state, on a GPU.
    peak_mib: float | None = column("peak MiB", decimals=0)
    steps: int = 0
    failure: str | None = None


@dataclass
class LoaderRow:
    """A way of loading training crops; ``workers`` is 0 for the training's own process."""

    prepared: bool = column("prepared images")
    workers: int = column("workers", decimals=0)
    images_per_second: float | None = column("images/s")  # of the median round
    ratio: float | None = column("x the first", decimals=2)
    batches: int = 0  # of a round
    failure: str | None = None


def training_benchmark(
    models: Mapping[str, str] | None = None,
    sizes: Sequence[str] = (),
    options: TrainingOptions | None = None,
    recipe: tuple[str, Recipe] | None = None,
    workers: int = 0,
    device: str | None = None,
    quiet: bool = False,
) -> BenchmarkResult:
    """Measure what a recipe's fields gain, and how fast a recipe's crops are loaded.

    Args:
        models: folders or Hub IDs, by name.
        sizes: ``b0`` to ``b5``, with random weights.
        options: what is measured.
        recipe: a name and a recipe, whose loading is measured, and whose model without models and
            sizes. Without a recipe that is B0.
        workers: processes that load, at most one for each core; 0 for the training's own only.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None for a GPU if there is one.
        quiet: show no progress bar.

    Returns:
        Its ``rows`` are of :class:`StepRow`, its ``loaders`` of :class:`LoaderRow`.

    Raises:
        UserError: a model or the recipe's images cannot be read, or a size, the crop or the
            device does not exist.
    """
    options = options or TrainingOptions()
    where = measuring.chosen_device(device)
    height, width = options.crop
    if min(options.crop) < 2 * SMALLEST:
        raise UserError(f"crop {width}x{height}: a side has at least {2 * SMALLEST} pixels")
    sizes = sizes or ([] if models or recipe else ["b0"])
    makers = measuring.model_makers(models or {}, sizes, _untrained)
    if recipe is not None and not makers:
        makers[recipe[0]] = partial(build_model, recipe[1].model, recipe[1].train.seed)
    machine = measuring.machine_facts(where)
    loaders: list[LoaderRow] = []
    if recipe is not None:
        # Results name the number of workers that there was.
        workers = worker_count(workers, workers)
        loaders = measure_loaders(recipe[1], workers, quiet)
    rows: list[StepRow] = []
    total = len(makers) * len(STEPS) * options.steps
    with measuring.progress_bar(total, "step", quiet) as progress:
        for name, make in makers.items():
            rows += measure_steps(name, make(), options, where, progress)
    protocol = {
        **asdict(options),
        "crop": [width, height],
        "in_a_row": in_a_row(options.steps),
        "recipe": recipe[0] if recipe else None,
    }
    tables = [_steps_table(rows, options, machine)]
    if recipe is not None:
        note = (
            f"the median of {_ROUNDS} rounds; decoding, augmentation and batches of {recipe[0]}, "
            "without the transfer to a GPU"
        )
        caption = "Loading training crops, no network"
        tables.append(measuring.table(caption, LoaderRow, loaders, [note], machine))
    return BenchmarkResult("training", machine, protocol, rows, tables, loaders)


def _untrained(size: str) -> Model:
    """A network as a training from scratch starts with."""
    return build_model(ModelSection.model_validate({"size": size}), seed=0)


def measure_steps(
    name: str,
    model: Model,
    options: TrainingOptions,
    device: torch.device,
    progress: Any,
    kinds: Mapping[str, StepKind] = STEPS,
) -> list[StepRow]:
    """A row for each kind of training step; they are timed in turns.

    Args:
        name: of the model.
        model: is trained and moved to the device.
        options: what is measured.
        device: where.
        progress: a tqdm bar that timed steps update.
        kinds: by name; the others are compared with the first.
    """
    torch.compiler.reset()
    nn.Module.to(model, device)
    pixels, labels = (
        make(options.batch, *options.crop).to(device) for make in (smooth_pixels, patch_labels)
    )
    # Kinds share parameters and each optimizer's state, so that many fit into memory.
    optimizers = {kind.adamw: adamw(model, kind.adamw) for kind in kinds.values()}

    def started(kind: StepKind) -> TrainingStep:
        step = TrainingStep(shared_copy(model), kind, pixels, labels, optimizers[kind.adamw])
        for _ in range(max(1, options.warm_up)):
            step()
        return step

    rows = {key: StepRow(name, key, kind) for key, kind in kinds.items()}
    running: dict[str, TrainingStep] = {}
    for key, kind in kinds.items():
        progress.set_postfix_str(f"{name}: {key}")
        step, rows[key].failure = attempt(partial(started, kind), kind.settings.compile)
        if step is None:
            model.zero_grad()
        else:
            running[key] = step
    timed = measuring.timed_in_turns(running, options.steps, progress.update)
    first = timed.get(next(iter(kinds)))
    for key, step in running.items():
        row, median = rows[key], statistics.median(timed[key])
        row.steps, row.steps_per_second = options.steps, 1 / median
        row.images_per_second = options.batch / median
        row.ratio = statistics.median(first) / median if first else None
        row.peak_mib, _ = attempt(partial(cuda_peak_mib, step, device, step.held_bytes()))
    return list(rows.values())


def measure_loaders(recipe: Recipe, workers: int, quiet: bool) -> list[LoaderRow]:
    """Images/s of loading alone, which a training cannot exceed.

    There is a row for loading in the training's own process and one with workers, and both again
    for the recipe's prepared folders, if it has any. They take turns, round by round.

    Args:
        recipe: its sources, augmentation and batch.
        workers: processes; 0 for none.
        quiet: show no progress bar.

    Raises:
        UserError: images cannot be read. If only the sources of prepared folders cannot, their
            rows fail instead.
    """
    pipeline = build_pipeline(pipeline_spec(recipe.augmentation))
    has_prepared = any(source.prepared for source in recipe.sources)
    rows: list[LoaderRow] = []
    images: dict[bool, list[Any]] = {}
    for prepared in (False, True) if has_prepared else (False,):
        failure = None
        try:
            images[prepared] = [
                load_training(
                    source if prepared else source.model_copy(update={"prepared": None}),
                    recipe.augmentation,
                )
                for source in recipe.sources
            ]
        except UserError as error:
            if prepared or not has_prepared:
                raise
            failure = str(error)
        rows += [
            LoaderRow(prepared, count, failure=failure) for count in dict.fromkeys((0, workers))
        ]
    running = [row for row in rows if row.failure is None]
    rates: list[list[float]] = [[] for _ in running]
    with measuring.progress_bar(_ROUNDS * len(running), "round", quiet) as progress:
        for _ in range(_ROUNDS):
            for row, found in zip(running, rates, strict=True):
                progress.set_postfix_str(f"prepared: {row.prepared}, {row.workers} workers")
                found.append(_round(recipe, images[row.prepared], pipeline, row))
                progress.update()
    for row, found in zip(running, rates, strict=True):
        row.images_per_second = statistics.median(found)
        if rows[0].images_per_second:
            row.ratio = row.images_per_second / rows[0].images_per_second
    return rows


def _round(recipe: Recipe, images: list[Any], pipeline: Pipeline, row: LoaderRow) -> float:
    """Images/s of a new loader, once its workers have started."""
    batch = recipe.train.batch_size
    # At least four batches of each worker; each begins with two, before the time.
    row.batches, before = max(8, 4 * row.workers), max(1, 2 * row.workers)
    weights = [source.weight for source in recipe.sources]
    count = (before + row.batches) * batch
    crops = TrainingCrops(images, weights, pipeline, recipe.train.seed, count)
    batches = iter(training_loader(crops, batch, row.workers, 0))
    for _ in itertools.islice(batches, before):
        pass
    since = time.perf_counter()
    count = sum(1 for _ in batches)
    return count * batch / (time.perf_counter() - since)


def _steps_table(
    rows: Sequence[StepRow], options: TrainingOptions, machine: Mapping[str, Any]
) -> Layout:
    notes = [
        f"{FIRST}: transformers' own loss; the others: ours, with these fields of a recipe's train "
        "section. AdamW is fused unless named",
        f"the median of {options.steps} steps after {options.warm_up}, {in_a_row(options.steps)} "
        "of each kind in turn; images lie on the device, Accelerate is not used",
        measuring.RANDOM_WEIGHTS,
    ]
    height, width = options.crop
    size = f"{options.batch} crops of {width}x{height}"
    caption = f"Training steps of {size} on {machine['device']}"
    return measuring.table(caption, StepRow, rows, notes, machine)
