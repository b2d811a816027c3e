"""Untrained networks as members of a merge, and images to score them on."""

import shutil

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from revt_hf.analysis.blending import ScoringData
from revt_hf.config.domain_spec import DomainSpec
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Model
from revt_hf.evaluation.result import SplitSpec
from revt_hf.models.load import build_model
from tests.helpers.tiny import TINY

STREETS = {"val_images": 2, "images": 2, "size": [64, 128]}
NATIVE = Protocol(max_size=None)


def tiny_model(seed):
    """A tiny SegFormer in eval mode whose class maps hold many classes."""
    model = build_model(Model.model_validate(TINY["model"]), seed).eval()
    with torch.no_grad():
        model.decode_head.classifier.weight.mul_(30)
    return model


def saved(folder, seed):
    """The folder of such a model."""
    tiny_model(seed).save_pretrained(folder)
    return folder


def saved_members(root, count=3):
    """Folders of such models with seeds 0, 1, ..."""
    return [saved(root / str(seed), seed) for seed in range(count)]


def changed(source, folder, change):
    """A copy of a folder whose floating-point tensors are ``change(name, tensor)``."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {
            name: tensor if tensor.dtype.kind == "i" else change(name, tensor).astype(tensor.dtype)
            for name, tensor in tensors.items()
        },
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def random_image(seed, height=64, width=128):
    """An image (height, width, 3), uint8, of coarse patches and noise."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 200, (height // 8, width // 8, 3), dtype=np.uint8)
    patches = patches.repeat(8, 0).repeat(8, 1)
    return patches + rng.integers(0, 56, (height, width, 3), dtype=np.uint8)


def rows(count, label=None):
    """Images with labels: random classes, or ``label(image)``."""
    made = []
    for seed in range(count):
        image = random_image(seed)
        classes = np.random.default_rng(seed + 1000).integers(0, 20, (64, 128), dtype=np.uint8)
        classes[classes == 19] = 255
        found = label(image) if label else classes
        made.append({"image": image, "label": found, "name": str(seed)})
    return made


def data_of(images, protocol=NATIVE, is_source=True):
    """Images as the val split of a source or a target."""
    spec = DomainSpec(domain="streets", options=STREETS)
    return ScoringData((SplitSpec(spec, "val", is_source),), (images,), protocol)
