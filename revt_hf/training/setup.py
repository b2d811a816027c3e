"""Everything a run needs before its first step: data, model, BatchNorm mode and ``run.json``."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.recipe import Recipe, Training
from revt_hf.config.yaml_files import Section
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object
from revt_hf.data.augment import Pipeline, build_pipeline
from revt_hf.data.domains import domain_label
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.loading import check_labelled, check_sizes, load_labelled, minimum_side
from revt_hf.models.load import build_model
from revt_hf.training.data import check_crops, load_training
from revt_hf.training.result import pipeline_spec
from revt_hf.training.run_folder import RUN_FILE

Statistics = Literal["process", "all processes", "frozen"]
_log = logging.getLogger("revt_hf")


@dataclass(frozen=True)
class RunParts:
    """Rows of each source's training and val split (held out), (height, width) of an image, ..."""

    images: list[Any]
    held_out: list[Any]
    example_size: tuple[int, int]
    pipeline: Pipeline
    model: SegformerForSemanticSegmentation


def load_parts(recipe: Recipe) -> RunParts:
    """Load and check the data and the model of a recipe."""
    model = build_model(recipe.model, recipe.train.seed)
    # A pretrained encoder keeps seeing images normalised as it has seen them before.
    pipeline = build_pipeline(pipeline_spec(recipe.augmentation, normalisation_of(model)))
    images = [load_training(source, recipe.augmentation) for source in recipe.sources]
    held_out = (
        [load_labelled(source, source.val) for source in recipe.sources]
        if recipe.train.validate_every
        else []
    )
    # Reads one image of each, so that broken data stop the run before anything is written.
    example_size, *_ = [source[0]["image"].shape[:2] for source in images]
    for source, rows in zip(recipe.sources, images, strict=True):
        check_labelled(rows, domain_label(source, source.train))
    minimum = minimum_side([model])
    for source, rows in zip(recipe.sources, held_out, strict=False):
        check_sizes(rows, domain_label(source, source.val), recipe.evaluation, minimum)
    check_crops(images, recipe.augmentation, recipe.train.batch_size, minimum)
    return RunParts(images, held_out, example_size, pipeline, model)


class RunRecord(Section):
    """``run.json``: what the recipe alone does not determine."""

    processes: int
    effective_batch: int
    device: str
    precision: str
    batch_norm: Statistics

    @classmethod
    def of(cls, recipe: Recipe, accelerator: Accelerator) -> "RunRecord":
        """The record of a run that is about to start."""
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
        """Log the effective batch unless ``quiet``, and a warning if processes differ."""
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
                "the decode head's BatchNorm sees the images of one process only: SyncBatchNorm "
                "exists on GPUs (model.batch_norm: frozen does without batch statistics)"
            )


def effective_batch(settings: Training, processes: int) -> int:
    """Images per optimizer step."""
    images = settings.batch_size * settings.gradient_accumulation * processes
    if settings.effective_batch not in (None, images):
        raise UserError(
            f"train.effective_batch is {settings.effective_batch}, but this run's is {images}: "
            f"{_product(settings, processes)}"
        )
    return images


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
    """The statistics that the decode head's BatchNorm (the encoder has none) normalises with.

    Those of ``all processes`` together need SyncBatchNorm, which exists on CUDA only.
    """
    if batch_norm == "frozen":
        return "frozen"
    return "all processes" if device == "cuda" and processes > 1 else "process"


def apply_statistics(model: nn.Module, kind: Statistics) -> None:
    """Replace BatchNorm by SyncBatchNorm for ``all processes``; parameters stay the same."""
    if kind == "all processes":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def training_mode(model: nn.Module, kind: Statistics) -> None:
    """``model.train()``, except that frozen BatchNorm neither uses nor updates batch statistics.

    Its weight and bias keep learning (like mmsegmentation's ``norm_eval``).
    """
    model.train()
    if kind == "frozen":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _product(settings: Training, processes: int) -> str:
    return (
        f"batch_size {settings.batch_size} x gradient_accumulation "
        f"{settings.gradient_accumulation} x {processes} process{'es' if processes > 1 else ''}"
    )
