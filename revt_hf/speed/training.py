"""How fast a training is: steps with the recipe's fields that change speed, and loading alone.

A step: forward, loss, backward and AdamW for a batch on the device, without Accelerate.
"""

import copy
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import nn

from revt_hf.config.network import Model as ModelSection
from revt_hf.config.recipe import Optimizer, Recipe, Training
from revt_hf.core.errors import UserError
from revt_hf.core.resources import worker_count
from revt_hf.data.augment import Pipeline, build_pipeline
from revt_hf.evaluation.class_maps import Size
from revt_hf.evaluation.cost import cuda_peak_mib
from revt_hf.models.folded_head import bf16_autocast, fold_
from revt_hf.models.load import build_model
from revt_hf.speed import measuring
from revt_hf.speed.measuring import BenchmarkResult, Model, attempt, column, ratio
from revt_hf.training.data import (
    ClassDraws,
    TrainingCrops,
    class_draws,
    load_training,
    pipeline_spec,
    training_loader,
)
from revt_hf.training.loss import segmentation_loss
from revt_hf.training.optim import build_optimizer

# Rows of a strip: the time is the same from 8 to 64.
LOSS_ROWS = 16
FIRST = "transformers labels="
_ROUNDS = 3


@dataclass(frozen=True)
class StepKind:
    """A kind of training step: fields of a recipe's ``train`` section, loss and optimizer."""

    fields: dict[str, Any] = field(default_factory=dict)
    labels: bool = False  # transformers' own loss, by its ``labels=`` argument
    adamw: Literal["fused", "foreach", "for-loop"] = "fused"  # torch's implementation

    @cached_property
    def settings(self) -> Training:
        return Training.model_validate(self.fields)


_BOTH = {"folded_head": True, "loss_rows": LOSS_ROWS}
# The others are compared with the first.
STEPS = {
    FIRST: StepKind(labels=True),
    "ours": StepKind(),
    "folded_head": StepKind({"folded_head": True}),
    "loss_rows": StepKind({"loss_rows": LOSS_ROWS}),
    "folded_head, loss_rows": StepKind(_BOTH),
    "folded_head, loss_rows, bf16": StepKind({**_BOTH, "precision": "bf16"}),
    "folded_head, loss_rows, compile": StepKind({**_BOTH, "compile": True}),
    "ours, AdamW foreach": StepKind(adamw="foreach"),
    "ours, AdamW for-loop": StepKind(adamw="for-loop"),
}


class TrainingStep:
    """A training step; each one sees the same images and draws the same dropout and drop path."""

    def __init__(
        self, model: Model, kind: StepKind, pixels: torch.Tensor, labels: torch.Tensor
    ) -> None:
        self.model: Any = model.train()
        self.kind, self._pixels, self._labels = kind, pixels, labels
        self.optimizer = build_optimizer(model, Optimizer())
        for group in self.optimizer.param_groups:
            group.update(fused=kind.adamw == "fused", foreach=kind.adamw == "foreach")
        if kind.settings.folded_head:
            fold_(model)
        if kind.settings.compile:
            model.compile()

    def __call__(self) -> float:
        """Do a step and return its loss; the work on a GPU is done."""
        torch.manual_seed(0)
        if self.kind.labels:
            loss = self.model(pixel_values=self._pixels, labels=self._labels).loss
        else:
            settings = self.kind.settings
            with bf16_autocast(self._pixels.device, settings.precision == "bf16"):
                logits = self.model(pixel_values=self._pixels).logits
            loss = segmentation_loss(logits, self._labels, settings.loss, rows=settings.loss_rows)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


@dataclass(frozen=True)
class TrainingOptions:
    """What is measured: ``steps`` of each kind, after ``warm_up`` others."""

    crop: Size = (512, 512)  # height, width
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
    """Measure training steps of models (default: the recipe's, or B0), and a recipe's loaders."""
    options = options or TrainingOptions()
    where = measuring.chosen_device(device)
    (height, width), least = options.crop, 2 * measuring.SMALLEST
    if min(height, width) < least:
        raise UserError(f"crop {width}x{height}: a side has at least {least} pixels")
    sizes = sizes or ([] if models or recipe else ["b0"])
    makers = measuring.model_makers(models or {}, sizes, _untrained)
    if recipe is not None and recipe[1].model.family != "segformer":
        raise UserError(f"{recipe[0]}: revt benchmark compares ways of training a SegFormer")
    machine = measuring.machine_facts(where)
    loaders: list[LoaderRow] = []
    if recipe is not None:
        makers = makers or {recipe[0]: partial(build_model, recipe[1].model, recipe[1].train.seed)}
        # Results name the number of workers that there was.
        loaders = measure_loaders(recipe[1], worker_count(workers, workers), quiet)
    rows: list[StepRow] = []
    with measuring.progress_bar(len(makers) * len(STEPS), "kind", quiet) as progress:
        for name, make in makers.items():
            rows += measure_steps(name, make(), options, where, progress)
    source = None if recipe is None else recipe[0]
    protocol = {**asdict(options), "crop": [width, height], "recipe": source}
    notes = [
        f"{FIRST}: transformers' own loss; the others: ours, with these fields of a recipe's train "
        "section. AdamW is fused unless named",
        f"the median of {options.steps} steps after {options.warm_up}; images lie on the device, "
        "Accelerate is not used",
        measuring.RANDOM_WEIGHTS,
    ]
    size = f"{options.batch} crops of {width}x{height}"
    caption = f"Training steps of {size} on {machine['device']}"
    tables = [measuring.table(caption, rows, notes, machine)]
    if loaders:
        note = (
            f"the median of {_ROUNDS} rounds; decoding, augmentation and batches of {source}, "
            "without the transfer to a GPU"
        )
        caption = "Loading training crops, no network"
        tables.append(measuring.table(caption, loaders, [note], machine))
    return BenchmarkResult("training", machine, protocol, rows, tables, loaders)


def _untrained(size: str) -> Model:
    return build_model(ModelSection.model_validate({"size": size}), seed=0)


def measure_steps(
    name: str,
    model: Model,
    options: TrainingOptions,
    device: torch.device,
    progress: Any,
    kinds: Mapping[str, StepKind] = STEPS,
) -> list[StepRow]:
    """A row for each kind of training step, compared with the first; ``progress`` is a tqdm bar."""
    pixels = measuring.smooth_pixels(options.batch, *options.crop).to(device)
    labels = measuring.patch_labels(options.batch, *options.crop).to(device)

    def measure(row: StepRow, kind: StepKind) -> None:
        copied = copy.deepcopy(model)
        nn.Module.to(copied, device)
        step = TrainingStep(copied, kind, pixels, labels)
        seconds = measuring.run_seconds(step, max(1, options.warm_up), options.steps)
        row.steps, row.steps_per_second = options.steps, 1 / statistics.median(seconds)
        # Parameters and AdamW's two moments stay between steps.
        held_bytes = 3 * sum(parameter.nbytes for parameter in step.model.parameters())
        row.peak_mib = cuda_peak_mib(step, device, held_bytes)

    rows = []
    for key, kind in kinds.items():
        progress.set_postfix_str(f"{name}: {key}")
        torch.compiler.reset()
        row = StepRow(name, key, kind)
        rows.append(row)
        _, row.failure = attempt(partial(measure, row, kind), kind.settings.compile)
        if row.steps_per_second:
            row.images_per_second = options.batch * row.steps_per_second
        row.ratio = ratio(row.steps_per_second, rows[0].steps_per_second)
        progress.update()
    return rows


def measure_loaders(recipe: Recipe, workers: int, quiet: bool) -> list[LoaderRow]:
    """Images/s of loading alone, from sources and prepared folders, without and with workers."""
    pipeline = build_pipeline(pipeline_spec(recipe.augmentation))
    has_prepared = any(source.prepared for source in recipe.sources)
    kinds = itertools.product([False, True][: 1 + has_prepared], dict.fromkeys((0, workers)))
    rows = [LoaderRow(*kind) for kind in kinds]
    with measuring.progress_bar(len(rows), "loader", quiet) as progress:
        for row in rows:
            changes = {} if row.prepared else {"prepared": None}
            sources = [source.model_copy(update=changes) for source in recipe.sources]
            try:
                images = [load_training(source, recipe.augmentation) for source in sources]
            except UserError as error:
                if row.prepared or not has_prepared:
                    raise
                row.failure = str(error)
                continue
            draws = class_draws(recipe, images, quiet)
            rates = [_round(recipe, images, draws, pipeline, row) for _ in range(_ROUNDS)]
            row.images_per_second = statistics.median(rates)
            row.ratio = ratio(row.images_per_second, rows[0].images_per_second)
            progress.update()
    return rows


def _round(
    recipe: Recipe,
    images: list[Any],
    draws: list[ClassDraws] | None,
    pipeline: Pipeline,
    row: LoaderRow,
) -> float:
    """Images/s of a new loader, once its workers have started."""
    batch = recipe.train.batch_size
    # At least four batches of each worker; each begins with two, before the time.
    row.batches, before = max(8, 4 * row.workers), max(1, 2 * row.workers)
    weights = [source.weight for source in recipe.sources]
    count = (before + row.batches) * batch
    crops = TrainingCrops(images, weights, pipeline, recipe.train.seed, count, draws)
    batches = iter(training_loader(crops, batch, row.workers, 0))
    for _ in itertools.islice(batches, before):
        pass
    since = time.perf_counter()
    count = sum(1 for _ in batches)
    return count * batch / (time.perf_counter() - since)
