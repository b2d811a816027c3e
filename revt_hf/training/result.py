"""The result of a run: an ordinary SegFormer folder."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.checkpoints.tensors import RECIPE_FILE
from revt_hf.config.recipe import Augmentation, Recipe
from revt_hf.core.errors import readable_os_errors
from revt_hf.core.output_folders import SCRATCH_PREFIX, open_up
from revt_hf.core.outputs import write_text
from revt_hf.data.augment import PipelineSpec
from revt_hf.data.normalisation import IMAGENET, Normalisation, normalisation_of
from revt_hf.data.reading import fit_size
from revt_hf.models.load import quiet_transformers

# Weights last: a folder with weights is a finished one.
_RESULT_FILES = ("preprocessor_config.json", "config.json", "model.safetensors")


def pipeline_spec(
    augmentation: Augmentation, normalisation: Normalisation = IMAGENET
) -> PipelineSpec:
    """The settings of the augmentation pipeline that a recipe asks for."""
    return PipelineSpec(**augmentation.model_dump(), mean=normalisation.mean, std=normalisation.std)


def save_result(
    model: SegformerForSemanticSegmentation,
    run: Path,
    recipe: Recipe,
    example_size: tuple[int, int],
    averages: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Save the model, and averages of its weights, into the run's folder."""
    final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # The final weights are saved last: they mark the run as finished.
    for name, averaged in averages.items():
        model.load_state_dict(averaged)
        _save(model, run / name, recipe, example_size)
        write_text(run / name / RECIPE_FILE, recipe.to_yaml())
    model.load_state_dict(final)
    _save(model, run, recipe, example_size)


def _save(
    model: SegformerForSemanticSegmentation, folder: Path, recipe: Recipe, size: tuple[int, int]
) -> None:
    scratch = folder / f"{SCRATCH_PREFIX}result"
    with readable_os_errors(folder), quiet_transformers():
        # A killed process may have left one.
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            model.save_pretrained(scratch)
            image_processor(recipe, size, normalisation_of(model)).save_pretrained(scratch)
            open_up(scratch)
            for name in _RESULT_FILES:
                (scratch / name).replace(folder / name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def image_processor(
    recipe: Recipe, size: tuple[int, int], normalisation: Normalisation = IMAGENET
) -> Any:
    """The Hugging Face image processor that prepares images like the test protocol.

    It resizes to one fixed size, so it is exact for images of the source's aspect ratio.
    """
    height, width = size
    if recipe.evaluation.max_size is not None:
        height, width = fit_size(height, width, recipe.evaluation.max_size)
    return SegformerImageProcessorPil(
        do_resize=recipe.evaluation.max_size is not None,
        size={"height": height, "width": width},
        do_reduce_labels=False,
        **asdict(normalisation),
    )
