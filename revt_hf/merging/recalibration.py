"""Re-estimate the decode head's BatchNorm statistics for an averaged encoder.

The head of a merged model comes from one member, and its running statistics belong to that
member's features. Source images are all that is needed to set them right.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import SegformerForSemanticSegmentation

from revt_hf import __version__
from revt_hf.checkpoints.architecture import VARIANCE
from revt_hf.checkpoints.description import (
    common_dtype,
    fitting_places,
    model_config,
    read_description,
)
from revt_hf.checkpoints.headers import TensorPlace, tensors_hash, tensors_sha256
from revt_hf.checkpoints.image_processor import PROCESSOR_FILE, read_processor
from revt_hf.checkpoints.tensors import (
    CONFIG_FILE,
    MERGE_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    open_checkpoint,
)
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_folder, check_output, write_json
from revt_hf.core.processes import process_state
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.predictor import prepare
from revt_hf.merging.record import CHANGES_FILE, recorded_changes, with_change
from revt_hf.models.load import load_model
from revt_hf.models.recorded import recorded_recipe

_MEAN = VARIANCE.replace("var", "mean")
_DESCRIBING = (CONFIG_FILE, PROCESSOR_FILE, MERGE_FILE, RECIPE_FILE, CHANGES_FILE)


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
    images: Iterable[dict[str, Any]],
    protocol: Protocol,
    on_image: Callable[[], object] = lambda: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel that the head's BatchNorm is given.

    Args:
        model: in eval mode.
        images: rows with ``image`` (H, W, 3), uint8, RGB.
        protocol: how images reach the network.
        on_image: called after each image, for a progress bar.

    Returns:
        Mean and variance over all pixels of all images, each (channels,), float64.
    """
    layer = model.decode_head.batch_norm
    moments = _Moments(layer.num_features)
    handle = layer.register_forward_pre_hook(moments)
    try:
        for row in images:
            pixels = prepare(row["image"], protocol, normalisation=normalisation_of(model))
            model(pixel_values=pixels.to(model.device))
            on_image()
    finally:
        handle.remove()
    return moments.mean_and_variance()


@torch.inference_mode()
def recalibrate_model(
    model: SegformerForSemanticSegmentation,
    images: Iterable[dict[str, Any]],
    protocol: Protocol,
    on_image: Callable[[], object] = lambda: None,
) -> None:
    """Set the head's BatchNorm statistics to those of ``images``, in place.

    Args:
        model: in eval mode; nothing else of it changes.
        images: rows with ``image`` (H, W, 3), uint8, RGB; of the *source* domain.
        protocol: how images reach the network.
        on_image: called after each image, for a progress bar.
    """
    layer = model.decode_head.batch_norm
    mean, variance = measured_statistics(model, images, protocol, on_image)
    layer.running_mean.copy_(mean.float())
    layer.running_var.copy_(variance.float())


def recalibrate(
    source: str | Path,
    output: str | Path,
    images: Iterable[dict[str, Any]],
    protocol: Protocol,
    overwrite: bool = False,
    on_image: Callable[[], object] = lambda: None,
    sources: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write a copy of a SegFormer folder with recalibrated statistics, on the accelerator if any.

    All other tensors keep their bits. The record (``merge.json``, of a model that is no merge
    ``recalibration.json``) says what was done.

    Arguments as in :func:`recalibrate_model`; ``source`` is a folder, ``output`` the new one, and
    ``sources`` says where the images are from: ``domain``, ``train`` (the split) and so on.

    Raises:
        UserError: ``source`` cannot be read, changes meanwhile, or is not what its record
            describes; statistics beyond its dtype; or ``output`` exists and ``overwrite`` is false.
    """
    folder, target = Path(source), Path(output)
    check_output(target, overwrite, [source])
    seen = 0

    def counted() -> None:
        nonlocal seen
        seen += 1
        on_image()

    with open_checkpoint(folder, quiet=True) as checkpoint:
        if checkpoint.folder is None or folder.is_file():
            raise UserError(f"{folder} is a single file: give a folder with {CONFIG_FILE}")
        checkpoint.stamps.add(*(folder / name for name in _DESCRIBING))
        description = read_description(folder)
        places = fitting_places(description, checkpoint.places)
        recorded_changes(folder)
        model = load_model(folder).to(process_state().device)
        recalibrate_model(model, images, protocol, counted)
        layer = model.decode_head.batch_norm
        measured = {_MEAN: layer.running_mean.cpu(), VARIANCE: layer.running_var.cpu()}
        tensors = {name: read_tensor(place) for name, place in places.items()}
        before = _sha256(checkpoint.places, tensors)
        tensors |= {name: _held(folder, tensors[name], new) for name, new in measured.items()}
        processor = read_processor(folder)
        checkpoint.stamps.check()
    with atomic_folder(target, overwrite, [source]) as scratch:
        save_file(tensors, scratch / WEIGHTS_FILE, metadata={"format": "pt"})
        change = {
            "kind": "recalibrated",
            "sources": [dict(entry) for entry in sources],
            "images": seen,
            "protocol": protocol.model_dump(mode="json"),
            "before": before,
            "after": tensors_sha256(scratch / WEIGHTS_FILE),
            "revt_hf": __version__,
        }
        name, record = with_change(folder, change)
        write_json(scratch / name, record)
        dtype = common_dtype(place.dtype for place in places.values())
        write_json(scratch / CONFIG_FILE, model_config(description, dtype))
        if processor is not None:
            write_json(scratch / PROCESSOR_FILE, processor)
        # One of another program is not passed on as ours.
        if recorded_recipe(folder) is not None:
            shutil.copyfile(folder / RECIPE_FILE, scratch / RECIPE_FILE)
    return target


def _held(folder: Path, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """New statistics in the dtype of the old ones."""
    held = new.to(old.dtype)
    if not held.isfinite().all():
        raise UserError(
            f"{folder}: the new statistics are beyond {str(old.dtype).removeprefix('torch.')}"
        )
    return held.contiguous()


def _sha256(places: Mapping[str, TensorPlace], tensors: Mapping[str, torch.Tensor]) -> str:
    """As ``headers.tensors_sha256`` of the file that the tensors come from."""
    digest = tensors_hash((name, place.dtype, place.shape) for name, place in places.items())
    for name in places:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
