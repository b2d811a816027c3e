"""Tiny SegFormer folders for merges, with whatever is to be odd about them."""

import json

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.data.labels import CLASSES


def tiny(seed=0, dtype=torch.float32, **fields):
    torch.manual_seed(seed)
    settings = {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [32, 64, 160, 256],
        "decoder_hidden_size": 16,
        "id2label": dict(enumerate(CLASSES)),
        **fields,
    }
    return SegformerForSemanticSegmentation(SegformerConfig(**settings)).to(dtype)


def saved(folder, seed=0, dtype=torch.float32, processor=None, **fields):
    """A folder; ``processor`` are fields of its image processor, False is none."""
    tiny(seed, dtype, **fields).save_pretrained(folder)
    if processor is not False:
        size = {"height": 64, "width": 128}
        SegformerImageProcessorPil(**{"size": size, **(processor or {})}).save_pretrained(folder)
    return folder


def rewrite(path, **changes):
    """Change keys of a JSON file; None takes one away."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: v for key, v in values.items() if v is not None}))
