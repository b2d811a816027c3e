"""Tiny SegFormer folders for merges, with whatever is to be odd about them."""

import json

import torch
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.checkpoints.architecture import Architecture, tensor_shapes
from revt_hf.checkpoints.tensors import open_checkpoint
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.data.label_space import CLASSES

SMALL = {"depths": (1,) * 4, "hidden_sizes": (8, 16, 40, 64), "decoder_hidden_size": 16}
# 12 MiB a model
BIG = {"depths": (1,) * 4, "hidden_sizes": (64, 128, 320, 512), "decoder_hidden_size": 64}
COUNTER = "decode_head.batch_norm.num_batches_tracked"


def tiny(seed=0, dtype=torch.float32, **fields):
    torch.manual_seed(seed)
    settings = {"depths": [1] * 4, "decoder_hidden_size": 16, "id2label": dict(enumerate(CLASSES))}
    return SegformerForSemanticSegmentation(SegformerConfig(**{**settings, **fields})).to(dtype)


def saved(folder, seed=0, dtype=torch.float32, processor=None, **fields):
    """A folder; ``processor`` are fields of its image processor, False is none."""
    tiny(seed, dtype, **fields).save_pretrained(folder)
    if processor is not False:
        size = {"height": 64, "width": 128}
        SegformerImageProcessorPil(**{"size": size, **(processor or {})}).save_pretrained(folder)
    return folder


def random_state(seed, dtype=torch.float32, sizes=SMALL):
    """Random tensors of a SegFormer by their names on disk."""
    generator = torch.Generator().manual_seed(seed)
    shapes = tensor_shapes(Architecture(**sizes), len(CLASSES))
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state["decode_head.batch_norm.running_var"].abs_()
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    return {**state, COUNTER: torch.tensor(seed + 5)}


def saved_state(folder, state, sizes=SMALL):
    """A folder of these tensors, without an image processor."""
    folder.mkdir()
    config = {"model_type": "segformer", **sizes, "id2label": dict(enumerate(CLASSES))}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")
    return folder


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def change_tensors(folder, change):
    """Rewrite a folder's tensors after ``change(tensors)``."""
    tensors = tensors_of(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite(path, **changes):
    """Change keys of a JSON file; None takes one away."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: v for key, v in values.items() if v is not None}))


def check_opened(source, expected):
    """A source has exactly these tensors; returns those that were left out."""
    with open_checkpoint(source) as checkpoint:
        assert checkpoint.tensors.keys() == expected.keys()
        for name, place in checkpoint.tensors.items():
            found = read_tensor(place)
            assert found.dtype == expected[name].dtype
            assert torch.equal(found, expected[name]), name
        return checkpoint.dropped
