"""Re-estimate the decode head's BatchNorm statistics for an averaged encoder.

The head of a merged model comes from one member, and its running statistics belong to that
member's features. Source pictures are all that is needed to set them right.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import SegformerForSemanticSegmentation

from revt_hf.evaluation.inference import Protocol, prepare
from revt_hf.files import atomic_folder, check_output
from revt_hf.modeling import load_model, quiet_transformers
from revt_hf.normalisation import normalisation_of
from revt_hf.processes import process_state
from revt_hf.recorded import MERGE_FILE, RECIPE_FILE

_KEPT_FILES = ("preprocessor_config.json", MERGE_FILE, RECIPE_FILE)


class _Moments:
    """Per-channel mean and variance over everything that a layer is given, in float64."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)

    def __call__(self, _: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        values = inputs[0].detach()
        # Apple's GPUs know no float64.
        values = (values.cpu() if values.device.type == "mps" else values).double()
        self._count += values.numel() // values.shape[1]
        self._sum += values.sum((0, 2, 3)).cpu()
        self._squares += (values**2).sum((0, 2, 3)).cpu()

    def mean_and_variance(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self._sum / self._count
        return mean, self._squares / self._count - mean**2


@torch.inference_mode()
def measured_statistics(
    model: SegformerForSemanticSegmentation,
    pictures: Iterable[dict[str, Any]],
    protocol: Protocol,
    on_picture: Callable[[], object] = lambda: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel that the head's BatchNorm is given.

    Args:
        model: in eval mode.
        pictures: rows with ``image`` (H, W, 3), uint8, RGB.
        protocol: how pictures reach the network.
        on_picture: called after each picture, for a progress bar.

    Returns:
        Mean and variance over all pixels of all pictures, each (channels,), float64.
    """
    layer = model.decode_head.batch_norm
    moments = _Moments(layer.num_features)
    handle = layer.register_forward_pre_hook(moments)
    try:
        for row in pictures:
            pixels = prepare(row["image"], protocol, normalisation=normalisation_of(model))
            model(pixel_values=pixels.to(model.device))
            on_picture()
    finally:
        handle.remove()
    return moments.mean_and_variance()


@torch.inference_mode()
def recalibrate_model(
    model: SegformerForSemanticSegmentation,
    pictures: Iterable[dict[str, Any]],
    protocol: Protocol,
    on_picture: Callable[[], object] = lambda: None,
) -> None:
    """Set the head's BatchNorm statistics to those of ``pictures``, in place.

    Args:
        model: in eval mode; nothing else of it changes.
        pictures: rows with ``image`` (H, W, 3), uint8, RGB; of the *source* domain.
        protocol: how pictures reach the network.
        on_picture: called after each picture, for a progress bar.
    """
    layer = model.decode_head.batch_norm
    mean, variance = measured_statistics(model, pictures, protocol, on_picture)
    layer.running_mean.copy_(mean.float())
    layer.running_var.copy_(variance.float())


def recalibrate(
    source: str | Path,
    output: str | Path,
    pictures: Iterable[dict[str, Any]],
    protocol: Protocol,
    overwrite: bool = False,
    on_picture: Callable[[], object] = lambda: None,
) -> Path:
    """Write a copy of a SegFormer folder with recalibrated statistics, on the accelerator if any.

    Arguments as in :func:`recalibrate_model`; ``source`` is a folder, ``output`` the new one.

    Raises:
        UserError: ``source`` cannot be read, or ``output`` exists and ``overwrite`` is false.
    """
    folder, target = Path(source), Path(output)
    check_output(target, overwrite, [source])
    model = load_model(folder).to(process_state().device)
    recalibrate_model(model, pictures, protocol, on_picture)
    with atomic_folder(target, overwrite, [source]) as scratch, quiet_transformers():
        model.save_pretrained(scratch)
        for name in _KEPT_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, scratch / name)
    return target
