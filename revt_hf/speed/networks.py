"""Random networks, images and labels: speed and memory do not depend on their values."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.recipe import Model
from revt_hf.data.labels import IGNORE_INDEX, NUM_CLASSES
from revt_hf.models.load import build_model

# The encoder's first stage sees an eighth of a quarter of the image as one key.
SMALLEST = 32
_PATCH = 32
_GREY, _CONTRAST = 128.0, 48.0


def random_network(size: str) -> SegformerForSemanticSegmentation:
    """A B0 to B5 in eval mode with random weights, with activations scaled like a trained one's.

    BatchNorm has the statistics of an image, and logits have a standard deviation of 2.
    """
    model = build_model(Model.model_validate({"size": size, "drop_path": 0}), seed=0)
    with torch.no_grad():
        model.decode_head.batch_norm.momentum = 1.0
        spread = model.train()(pixel_values=smooth_pixels(2, 128, 256)).logits.std()
        model.decode_head.classifier.weight.mul_(2 / spread)
    return model.eval()


def smooth_pixels(batch: int, height: int, width: int) -> torch.Tensor:
    """Smooth patches, (N, 3, H, W) float32, scaled like normalised images."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(batch, 3, *_patches(height, width), generator=generator)
    return functional.interpolate(patches, size=(height, width), mode="bicubic")


def smooth_image(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth patches of colour as an image, (H, W, 3) uint8."""
    pixels = smooth_pixels(1, height, width)[0] * _CONTRAST + _GREY
    return pixels.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def patch_labels(batch: int, height: int, width: int) -> torch.Tensor:
    """Labels in patches, (N, H, W) int64, 0..18; those at the top are ignored (255)."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, NUM_CLASSES, (batch, *_patches(height, width)), generator=generator)
    coarse[:, 0] = IGNORE_INDEX
    labels = coarse.repeat_interleave(_PATCH, 1).repeat_interleave(_PATCH, 2)
    return labels[:, :height, :width].contiguous()


def _patches(height: int, width: int) -> tuple[int, int]:
    return -(-height // _PATCH), -(-width // _PATCH)
