"""The model folder that a run ends with."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.mobilevit.image_processing_pil_mobilevit import (
    MobileViTImageProcessorPil,
)
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.checkpoints.built import quiet_transformers
from revt_hf.checkpoints.tensors import (
    ADAPTER,
    CONFIG_FILE,
    PROCESSOR_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
)
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import readable_os_errors
from revt_hf.core.output_folders import SCRATCH_PREFIX, open_up
from revt_hf.data.normalisation import IMAGENET, Normalisation, normalisation_of
from revt_hf.data.reading import fit_size
from revt_hf.models.adaptation import fold_adapter_, write_adapter

# What describes a model, whole or as an adapter.
_DESCRIPTION = (RECIPE_FILE, PROCESSOR_FILE, CONFIG_FILE)
# Weights last: a folder with weights is a finished one.
_RESULT = (*_DESCRIPTION, WEIGHTS_FILE)


def save_result(
    model: PreTrainedModel,
    run: Path,
    recipe: Recipe,
    example_size: tuple[int, int],
    averages: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Save the model, and averages of its weights, into the run's folder.

    An adapter is saved by itself in a folder of its own, and folded into the model.
    """
    final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # The final weights are saved last: they mark the run as finished.
    weights = {**{run / name: averaged for name, averaged in averages.items()}, run: final}
    for folder, state in weights.items():
        model.load_state_dict(state)
        scratch = folder / f"{SCRATCH_PREFIX}result"
        with readable_os_errors(folder), quiet_transformers():
            # A killed process may have left one.
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            try:
                if recipe.adapter:
                    (scratch / ADAPTER).mkdir()
                    write_adapter(model, recipe.model.init or "", scratch / ADAPTER)
                    fold_adapter_(model)
                model.save_pretrained(scratch)
                processor = image_processor(
                    recipe.evaluation.max_size, example_size, normalisation_of(model)
                )
                processor.save_pretrained(scratch)
                (scratch / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
                if recipe.adapter:
                    for name in _DESCRIPTION:
                        shutil.copyfile(scratch / name, scratch / ADAPTER / name)
                    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
                open_up(scratch)
                for name in (*([ADAPTER] if recipe.adapter else []), *_RESULT):
                    (scratch / name).replace(folder / name)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def image_processor(
    max_size: tuple[int, int] | None, size: tuple[int, int], normalisation: Normalisation = IMAGENET
) -> Any:
    """Prepares images like a test protocol's max size, exactly for one (height, width)."""
    height, width = size if max_size is None else fit_size(*size, max_size)
    fields = {
        "do_resize": max_size is not None,
        "size": {"height": height, "width": width},
        "do_reduce_labels": False,
        **normalisation.fields(),
    }
    if normalisation.do_flip_channel_order:
        # SegFormer's cannot flip channels.
        return MobileViTImageProcessorPil(**fields, do_center_crop=False, resample=2)
    return SegformerImageProcessorPil(**fields)
