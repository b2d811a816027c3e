"""What a run is made of before its first step, and what it records."""

import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn
from transformers import PreTrainedModel

from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.config.recipe import Recipe, Training
from revt_hf.config.yaml_files import Section
from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.outputs import read_json_object, write_text
from revt_hf.core.processes import process_state
from revt_hf.data.augment import Pipeline, build_pipeline
from revt_hf.data.domains import domain_label, in_space, space_of_spec
from revt_hf.data.label_space import standard_order
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.loading import check_labelled, check_sizes, load_labelled
from revt_hf.models.adaptation import adapt_
from revt_hf.models.load import build_model
from revt_hf.models.networks import (
    batch_norms,
    family_of_model,
    input_limits,
    logits_of,
)
from revt_hf.models.recorded import METRICS_FILE, read_metrics
from revt_hf.training.data import (
    ClassDraws,
    check_crops,
    check_single_images,
    class_draws,
    load_training,
    pipeline_spec,
)
from revt_hf.training.run_folder import RUN_FILE

Statistics = Literal["process", "all processes", "frozen"]
_log = logging.getLogger("revt_hf")


@dataclass(frozen=True)
class RunParts:
    images: list[Any]  # rows of each source's training split
    held_out: list[Any]  # rows of each source's val split, where the run validates
    example_size: tuple[int, int]  # (height, width) of a training image
    pipeline: Pipeline
    model: PreTrainedModel
    rare_classes: list[ClassDraws] | None  # of each source


def load_parts(recipe: Recipe, quiet: bool = False) -> RunParts:
    """Load data and model; whatever the run cannot use is refused here, before its first step."""
    # Cityscapes' classes are kept in the order of the train ids, however the data list them.
    space = standard_order(space_of_spec(recipe.sources[0]))
    for source in recipe.sources:
        space.rows(space_of_spec(source).classes, domain_label(source, source.train))
    model = build_model(recipe.model, recipe.train.seed, space)
    family = family_of_model(model)
    if family.masks:
        raise UserError(
            f"{recipe.model.init} ({family.title}) predicts masks, whose loss is not built here "
            "(docs/models.md): it can be evaluated and merged, not trained"
        )
    if recipe.train.folded_head and family is not SEGFORMER:
        raise UserError("train.folded_head is for SegFormer's decode head: set it to false")
    limits = input_limits([model])
    freeze(model, recipe, limits.probe)
    processes = process_state()
    kind = statistics(recipe.model.batch_norm, processes.device.type, processes.num_processes)
    if recipe.train.batch_size == 1 and kind == "process":
        check_single_images(model, limits.probe)
    # A pretrained encoder keeps seeing images normalised as it has seen them before.
    pipeline = build_pipeline(pipeline_spec(recipe.augmentation, normalisation_of(model)))
    images = [
        in_space(
            load_training(source, recipe.augmentation), space, domain_label(source, source.train)
        )
        for source in recipe.sources
    ]
    validated = recipe.sources if recipe.train.validate_every else ()
    held_out = [
        in_space(load_labelled(source, source.val), space, domain_label(source, source.val))
        for source in validated
    ]
    # Reads one image of each, so that broken data stop the run before anything is written.
    example_size, *_ = [source[0]["image"].shape[:2] for source in images]
    for source, rows in zip(recipe.sources, images, strict=True):
        check_labelled(rows, domain_label(source, source.train))
    for source, rows in zip(validated, held_out, strict=True):
        check_sizes(rows, domain_label(source, source.val), recipe.evaluation, limits)
    check_crops(images, recipe.augmentation, recipe.train.batch_size, limits)
    rare_classes = class_draws(recipe, images, quiet)
    return RunParts(images, held_out, example_size, pipeline, model, rare_classes)


class RunRecord(Section):
    """``run.json``: what the recipe alone does not determine."""

    processes: int
    effective_batch: int
    device: str
    precision: str
    batch_norm: Statistics

    @classmethod
    def of(cls, recipe: Recipe, accelerator: Accelerator) -> "RunRecord":
        device, processes = accelerator.device, accelerator.num_processes
        is_cuda = device.type == "cuda"
        return cls(
            processes=processes,
            effective_batch=effective_batch(recipe.train, processes),
            device=torch.cuda.get_device_name(device) if is_cuda else device.type,
            precision=recipe.train.precision,
            batch_norm=statistics(recipe.model.batch_norm, device.type, processes),
        )

    def announce(self, settings: Training, quiet: bool) -> None:
        if not quiet:
            _log.info(
                "effective batch %d (%s) on %s, %s",
                self.effective_batch,
                _product(settings, self.processes),
                self.device,
                self.precision,
            )
        if self.batch_norm == "process" and self.processes > 1:
            _log.warning(
                "BatchNorm sees the images of one process only: SyncBatchNorm exists on GPUs "
                "(model.batch_norm: frozen does without batch statistics)"
            )


def effective_batch(settings: Training, processes: int) -> int:
    images = settings.batch_size * settings.gradient_accumulation * processes
    if settings.effective_batch not in (None, images):
        raise UserError(
            f"train.effective_batch is {settings.effective_batch}, but this run's is {images}: "
            f"{_product(settings, processes)}"
        )
    return images


def _product(settings: Training, processes: int) -> str:
    return (
        f"batch_size {settings.batch_size} x gradient_accumulation "
        f"{settings.gradient_accumulation} x {processes} process{'es' if processes > 1 else ''}"
    )


def check_same_processes(run: Path, processes: int) -> None:
    """Refuse to resume with another number of processes, which would see other images."""
    path = run / RUN_FILE
    if not path.exists():
        return
    try:
        before = RunRecord.model_validate(read_json_object(path)).processes
    except ValidationError as error:
        raise UserError(
            f"{path} does not record how many processes trained together: delete it to resume "
            "anyway"
        ) from error
    if before != processes:
        raise UserError(f"{run} was started with --num_processes {before}: resume with as many")


def statistics(batch_norm: Literal["live", "frozen"], device: str, processes: int) -> Statistics:
    """The statistics that BatchNorm normalises with; a SegFormer has one layer, in its head."""
    if batch_norm == "frozen":
        return "frozen"
    # Those of all processes need SyncBatchNorm, which exists on CUDA only.
    return "all processes" if device == "cuda" and processes > 1 else "process"


def apply_statistics(model: nn.Module, kind: Statistics) -> None:
    if kind == "all processes":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def training_mode(model: nn.Module, kind: Statistics) -> None:
    """``model.train()``, but of frozen BatchNorm only weight and bias learn (``norm_eval``).

    A module without a parameter that learns, such as a frozen encoder, is left as in predictions.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
    if kind == "frozen":
        for module in batch_norms(model).values():
            module.eval()


def freeze(model: PreTrainedModel, recipe: Recipe, side: int) -> None:
    """Leave parameters as they are: a frozen or adapted encoder's, and what no output depends on.

    The latter, such as mask tokens, get no gradient, and several processes would wait for it; they
    are looked for with a square of a ``side`` that the network takes.
    """
    family = family_of_model(model)
    if recipe.adapter:
        adapt_(model, recipe.adapter)
    elif recipe.model.freeze == "encoder":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not family.in_encoder(name))
    if family is SEGFORMER:
        return
    model.eval()
    with torch.random.fork_rng(devices=[]):
        logits_of(model, torch.rand(1, 3, side, side)).sum().backward()
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None


class MetricsLog:
    """One JSON object per line, ``step`` first; lines after a resumed step are dropped."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self._path = folder / METRICS_FILE
        kept = [row for row in read_metrics(folder) if row["step"] <= resumed_step]
        write_text(self._path, "".join(f"{json.dumps(row)}\n" for row in kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        with readable_os_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose library is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"train.trackers: {name} is not installed: pip install {name}")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings as one level of scalars, which is all that TensorBoard accepts."""
    result: dict[str, str | int | float | bool] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            scalar = isinstance(value, str | int | float | bool)
            result[f"{prefix}{key}"] = value if scalar else str(value)
    return result
