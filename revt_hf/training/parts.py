"""What a run needs before its first step: data, augmentations and the model, all checked."""

from dataclasses import dataclass
from typing import Any

from transformers import SegformerForSemanticSegmentation

from revt_hf.config.recipe import Recipe
from revt_hf.data.augment import Pipeline, build_pipeline
from revt_hf.data.domains import domain_label
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.loading import (
    check_labelled,
    check_sizes,
    load_labelled,
    minimum_side,
)
from revt_hf.models.load import build_model
from revt_hf.training.data import check_crops, load_training
from revt_hf.training.result import pipeline_spec


@dataclass(frozen=True)
class RunParts:
    """What a run loads before it starts.

    Attributes:
        images: rows of each source's training split.
        held_out: rows of each source's val split; none where the recipe does not validate.
        example_size: (height, width) of a training image.
        pipeline: the augmentations, with the model's normalisation.
        model: the network, in float32 on the CPU.
    """

    images: list[Any]
    held_out: list[Any]
    example_size: tuple[int, int]
    pipeline: Pipeline
    model: SegformerForSemanticSegmentation


def load_parts(recipe: Recipe) -> RunParts:
    """Load the data and the model of a recipe.

    Raises:
        UserError: a model or dataset that cannot be used, or a split without a labelled pixel.
    """
    model = build_model(recipe.model, recipe.train.seed)
    # An encoder that is trained further sees images as it has seen them before.
    pipeline = build_pipeline(pipeline_spec(recipe.augmentation, normalisation_of(model)))
    images = [load_training(source, recipe.augmentation) for source in recipe.sources]
    held_out = (
        [load_labelled(source, source.val) for source in recipe.sources]
        if recipe.train.validate_every
        else []
    )
    # Reads an image of each, so that broken data stop the run before anything is written.
    example_size, *_ = [source[0]["image"].shape[:2] for source in images]
    for source, rows in zip(recipe.sources, images, strict=True):
        check_labelled(rows, domain_label(source, source.train))
    return RunParts(images, held_out, example_size, pipeline, model)


def check_parts(recipe: Recipe, parts: RunParts) -> None:
    """Refuse images that the network cannot take, or that cannot be stacked to a batch.

    Raises:
        UserError: naming the first of them.
    """
    minimum, protocol = minimum_side([parts.model]), recipe.evaluation
    for source, rows in zip(recipe.sources, parts.held_out, strict=False):
        check_sizes(rows, domain_label(source, source.val), protocol, minimum)
    check_crops(parts.images, recipe.augmentation, recipe.train.batch_size, minimum)
