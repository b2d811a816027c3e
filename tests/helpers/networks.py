"""Untrained networks, and images to score them on."""

import shutil

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from revt_hf.analysis.blending import ScoringData
from revt_hf.config.network import Model
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.evaluation.result import SplitSpec
from revt_hf.models.load import build_model
from tests.helpers.tiny import TINY

STREETS = {"val_images": 2, "images": 2, "size": [64, 128]}
NATIVE = Protocol(max_size=None)


def tiny_model(seed, **changes):
    """A tiny SegFormer in eval mode whose class maps hold many classes."""
    model = build_model(Model.model_validate({**TINY["model"], **changes}), seed).eval()
    with torch.no_grad():
        model.decode_head.classifier.weight.mul_(30)
    return model


def saved(folder, seed=0):
    tiny_model(seed).save_pretrained(folder)
    return folder


def changed(source, folder, change):
    """A copy of a folder whose floating-point tensors are ``change(name, tensor)``."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "i":
            tensors[name] = change(name, tensor).astype(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_image(height, width, seed=0):
    """An image (height, width, 3), uint8, of coarse patches and noise."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    patches = patches.repeat(8, 0).repeat(8, 1)[:height, :width]
    return patches + rng.integers(0, 56, (height, width, 3), dtype=np.uint8)


def row(height, width, seed=0):
    """An image with a label of all classes and ignored pixels."""
    rng = np.random.default_rng(seed + 1000)
    label = rng.integers(0, 20, (height, width), dtype=np.uint8)
    label[label == 19] = 255
    return {"image": random_image(height, width, seed), "label": label, "name": str(seed)}


def rows(count):
    return [row(64, 128, seed) for seed in range(count)]


def data_of(images, protocol=NATIVE, is_source=True):
    """Images as the val split of a source or a target."""
    spec = DomainSpec(domain="streets", options=STREETS)
    return ScoringData((SplitSpec(spec, "val", is_source),), (images,), protocol)


def full_size(logits, *sizes):
    """Logits (C, h, w) after plain bilinear resizes of all channels."""
    full = logits[None]
    for size in sizes:
        full = torch.nn.functional.interpolate(full, size=size, mode="bilinear")
    return full[0]


def same_but_ties(ours, scores):
    """Whether a class map is the arg max of scores (C, H, W), equal ones aside."""
    chosen = scores.gather(0, torch.from_numpy(ours).long()[None])[0]
    return bool((scores.max(0).values - chosen < 1e-5).all())
