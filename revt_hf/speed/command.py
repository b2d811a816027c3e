"""What ``revt benchmark`` does: measure on this machine, and gather what was measured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import SegformerForSemanticSegmentation

from revt_hf.checkpoints.architecture import SIZES
from revt_hf.config.recipe import Model, Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import check_output_file
from revt_hf.core.resources import worker_count
from revt_hf.evaluation.predictor import network_sizes
from revt_hf.models.load import build_model, load_model
from revt_hf.results.layout import Layout
from revt_hf.speed.loaders import LoaderRow, measure_loaders, rounds_of
from revt_hf.speed.machine import Machine, chosen_device
from revt_hf.speed.networks import random_network
from revt_hf.speed.prediction import (
    InferenceOptions,
    InferenceRow,
    measure_model,
)
from revt_hf.speed.show import inference_layout, loaders_layout, steps_layout
from revt_hf.speed.steps import STEPS
from revt_hf.speed.timing import in_a_row
from revt_hf.speed.training import StepRow, TrainingOptions, measure_steps
from revt_hf.speed.variants import chosen_variants

# The encoder's first stage sees an eighth of a quarter of the image as one key.
SMALLEST = 32

_Named = tuple[str, Callable[[], SegformerForSemanticSegmentation]]


@dataclass(frozen=True)
class InferenceResult:
    """How fast models predict."""

    machine: Machine
    options: InferenceOptions
    rows: Sequence[InferenceRow]

    def to_json(self) -> dict[str, Any]:
        """The object that ``revt benchmark --json`` writes."""
        height, width = self.options.image
        return {
            "kind": "inference",
            "machine": asdict(self.machine),
            "protocol": {
                **asdict(self.options),
                "image": [width, height],
                "in_a_row": in_a_row(self.options.images),
                "network_input": self.options.protocol.text,
            },
            "rows": [row.to_json(self.rows) for row in self.rows],
        }

    def layouts(self) -> list[Layout]:
        """Its tables."""
        return [inference_layout(self.rows, self.options, self.machine)]


@dataclass(frozen=True)
class TrainingResult:
    """How fast models train, and how fast a recipe's crops are loaded."""

    machine: Machine
    options: TrainingOptions
    rows: Sequence[StepRow]
    recipe: str | None
    loaders: Sequence[LoaderRow]

    def to_json(self) -> dict[str, Any]:
        """The object that ``revt benchmark --train --json`` writes."""
        height, width = self.options.crop
        return {
            "kind": "training",
            "machine": asdict(self.machine),
            "protocol": {
                **asdict(self.options),
                "crop": [width, height],
                "in_a_row": in_a_row(self.options.steps),
                "recipe": self.recipe,
            },
            "rows": [row.to_json() for row in self.rows],
            "loaders": [row.to_json() for row in self.loaders],
        }

    def layouts(self) -> list[Layout]:
        """Its tables."""
        layouts = [steps_layout(self.rows, self.options, self.machine)]
        if self.recipe is not None:
            layouts.append(loaders_layout(self.loaders, self.recipe, self.machine))
        return layouts


def inference_benchmark(
    models: Sequence[str],
    sizes: Sequence[str],
    variants: Sequence[str],
    options: InferenceOptions,
    device: str | None = None,
    quiet: bool = False,
) -> InferenceResult:
    """Measure how fast models predict.

    Args:
        models: folders or Hub ids.
        sizes: ``b0`` to ``b5``, with random weights; without models and sizes all six.
        variants: names of ``VARIANTS``; none for all.
        options: what is measured.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None for a GPU if there is one.
        quiet: no progress bar.

    Raises:
        UserError: a model cannot be read, or a size, a variant, the image's size or the device
            does not exist.
    """
    where, chosen = chosen_device(device), chosen_variants(variants)
    ((height, width),) = network_sizes(options.image, options.protocol)
    if min(height, width) < SMALLEST:
        raise UserError(
            f"--image and --max-size make {width}x{height} pixels: the network needs at least "
            f"{SMALLEST} on each side"
        )
    named = _models(models, sizes or ([] if models else list(SIZES)), random_network)
    machine = Machine.of(where)
    runs = len(chosen) * options.images if options.frame_rate else 0
    rows: list[InferenceRow] = []
    with _bar(len(named) * runs, "image", quiet) as progress:
        for name, make in named:
            rows += measure_model(name, make(), chosen, options, where, progress)
    return InferenceResult(machine, options, rows)


def training_benchmark(
    models: Sequence[str],
    sizes: Sequence[str],
    options: TrainingOptions,
    recipe: tuple[str, Recipe] | None = None,
    workers: int = 0,
    device: str | None = None,
    quiet: bool = False,
) -> TrainingResult:
    """Measure what fields of a recipe give, and how fast a recipe's crops are loaded.

    Args:
        models: folders or Hub ids.
        sizes: ``b0`` to ``b5``, with random weights.
        options: what is measured.
        recipe: its name and itself: its network is measured if there are no models and sizes
            (without it, B0), and its loading.
        workers: processes that load, at most one for each core; 0 for the training's own only.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None for a GPU if there is one.
        quiet: no progress bar.

    Raises:
        UserError: a model or the recipe's images cannot be read, or a size, the crop or the
            device does not exist.
    """
    where = chosen_device(device)
    if min(options.crop) < 2 * SMALLEST:
        height, width = options.crop
        raise UserError(f"crop {width}x{height}: a side has at least {2 * SMALLEST} pixels")
    alone = recipe is not None and not models and not sizes
    named = _models(models, sizes or ([] if models or alone else ["b0"]), _fresh)
    if recipe is not None and alone:
        named.append((recipe[0], partial(build_model, recipe[1].model, recipe[1].train.seed)))
    machine = Machine.of(where)
    loaders: list[LoaderRow] = []
    if recipe is not None:
        # So that results name the number that there was.
        workers = worker_count(workers, workers)
        with _bar(rounds_of(recipe[1], workers), "round", quiet) as progress:
            loaders = measure_loaders(recipe[1], workers, progress)
    rows: list[StepRow] = []
    with _bar(len(named) * len(STEPS) * options.steps, "step", quiet) as progress:
        for name, make in named:
            rows += measure_steps(name, make(), options, where, progress)
    return TrainingResult(machine, options, rows, recipe[0] if recipe else None, loaders)


def check_outputs(
    markdown: Path | None, json_file: Path | None, overwrite: bool, inputs: Sequence[str | Path]
) -> None:
    """Refuse before a long measurement what could not be written after it.

    Raises:
        UserError: see :func:`check_output_file`; ``overwrite`` is for Markdown.
    """
    check_output_file(markdown, overwrite, inputs, [json_file])
    check_output_file(json_file, inputs=inputs)


def _fresh(size: str) -> SegformerForSemanticSegmentation:
    """A network as a training from scratch starts with."""
    return build_model(Model.model_validate({"size": size}), seed=0)


def _models(
    models: Sequence[str],
    sizes: Sequence[str],
    random: Callable[[str], SegformerForSemanticSegmentation],
) -> list[_Named]:
    """What makes each model, by name; those of folders are read now."""
    named: list[_Named] = []
    for size in dict.fromkeys(sizes):
        if size not in SIZES:
            raise UserError(f"--size {size}: use {', '.join(SIZES)}")
        named.append((size, partial(random, size)))
    for model in dict.fromkeys(models):
        loaded = load_model(model)
        named.append((model, partial(_itself, loaded)))
    return named


def _itself(model: SegformerForSemanticSegmentation) -> SegformerForSemanticSegmentation:
    return model


def _bar(total: int, unit: str, quiet: bool) -> Any:
    return tqdm(total=total, unit=unit, desc="benchmark", disable=quiet)
