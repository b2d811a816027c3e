"""A segmenter's shapes without its weights: enough to count operations and measure memory."""

from typing import Any

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.inference import Segmenter, model_segmenter
from revt_hf.folded_head import fold_, is_folded


def blueprint_of(segmenter: Segmenter) -> dict[str, Any]:
    """All that decides a segmenter's shapes, as JSON."""
    return {
        "configs": [model.config.to_dict() for model in segmenter.models],
        "folded": [is_folded(model) for model in segmenter.models],
        "combine": segmenter.combine,
        "head": segmenter.head,
    }


def without_weights(blueprint: dict[str, Any]) -> Segmenter:
    """A segmenter of these shapes on the meta device: it has no memory and computes nothing."""
    with torch.device("meta"):
        models = [
            SegformerForSemanticSegmentation(SegformerConfig.from_dict(config)).eval()
            for config in blueprint["configs"]
        ]
    for model, is_folded_there in zip(models, blueprint["folded"], strict=True):
        if is_folded_there:
            fold_(model)
    if blueprint["combine"] is None:
        return model_segmenter(models[0])
    return ensemble_segmenter(models, blueprint["combine"], blueprint["head"] or 1)


@torch.no_grad()
def with_zeros(segmenter: Segmenter) -> Segmenter:
    """Give a segmenter without weights zeros, in the CPU's memory, for all that runs; in place."""
    for module in segmenter.modules:
        module.to_empty(device="cpu")
        # Memory that was never written is not resident.
        for tensor in module.state_dict().values():
            tensor.zero_()
    return segmenter
