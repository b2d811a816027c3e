"""A segmenter's shapes without its weights: enough to count operations and measure memory."""

from typing import Any

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.predictor import Segmenter, model_segmenter
from revt_hf.models.folded_head import fold_, is_folded
from revt_hf.models.load import is_channels_last


def blueprint_of(segmenter: Segmenter) -> dict[str, Any]:
    """All that decides a segmenter's shapes and memory, as JSON."""
    return {
        "models": [_facts(model) for model in segmenter.models],
        "combine": segmenter.combine,
        "head": segmenter.head,
        "bf16": segmenter.bf16,
    }


def _facts(model: SegformerForSemanticSegmentation) -> dict[str, Any]:
    return {
        "config": model.config.to_dict(),
        "attention": model.config._attn_implementation,
        "folded": is_folded(model),
        "channels_last": is_channels_last(model),
        "compiled": model._compiled_call_impl is not None,
    }


def without_weights(blueprint: dict[str, Any]) -> Segmenter:
    """A segmenter of these shapes on the meta device: it has no memory and computes nothing.

    What is compiled there is not compiled here: :func:`compile_`.
    """
    models = [_shapes(facts) for facts in blueprint["models"]]
    if blueprint["combine"] is None:
        return model_segmenter(models[0], blueprint["bf16"])
    return ensemble_segmenter(models, blueprint["combine"], blueprint["head"] or 1)


def _shapes(facts: dict[str, Any]) -> SegformerForSemanticSegmentation:
    with torch.device("meta"):
        model = SegformerForSemanticSegmentation(SegformerConfig.from_dict(facts["config"])).eval()
    model.set_attn_implementation(facts["attention"])
    if facts["folded"]:
        fold_(model)
    if facts["channels_last"]:
        model.to(memory_format=torch.channels_last)
    return model


def compile_(segmenter: Segmenter, blueprint: dict[str, Any]) -> bool:
    """Compile the models that the blueprint's are, in place; whether there are any."""
    compiled = [facts["compiled"] for facts in blueprint["models"]]
    for model, wanted in zip(segmenter.models, compiled, strict=True):
        if wanted:
            model.compile(dynamic=False)
    return any(compiled)


@torch.no_grad()
def with_zeros(segmenter: Segmenter) -> Segmenter:
    """Give a segmenter without weights zeros, in the CPU's memory, for all that runs; in place."""
    for module in segmenter.modules:
        module.to_empty(device="cpu")
        # Memory that was never written is not resident.
        for tensor in module.state_dict().values():
            tensor.zero_()
    return segmenter
