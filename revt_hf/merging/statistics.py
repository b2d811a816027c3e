"""Statistics of what reaches the BatchNorm layers of a network."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.class_maps import Size
from revt_hf.evaluation.loading import too_small
from revt_hf.evaluation.predictor import network_sizes, prepare, sliding_logits
from revt_hf.models.networks import batch_norms, family_of_model, input_limits, logits_of

OnImage = Callable[[], object]
# Of images that go through a network together: a few GB of features of the usual encoders.
_PIXELS = 2**23


def head_norms(model: PreTrainedModel) -> dict[str, Any]:
    """The BatchNorm layers of the decode head, by name."""
    in_encoder = family_of_model(model).in_encoder
    return {name: layer for name, layer in batch_norms(model).items() if not in_encoder(name)}


@torch.inference_mode()
def recalibrate_model(
    model: PreTrainedModel,
    images: Iterable[dict[str, Any]],
    protocol: Protocol,
    on_image: OnImage = lambda: None,
    head_only: bool = False,
) -> None:
    """Set the running statistics of all BatchNorm layers to measured ones, in place.

    A layer's input depends on the statistics of those before it. Of several layers each therefore
    normalises with what it has measured so far. Images of one size go through the network
    together, so that this is exact, up to ``_PIXELS`` of them; more are spread over several passes,
    of which each has images from everywhere.
    """
    norms = head_norms(model) if head_only else batch_norms(model)
    if not norms:
        raise UserError("the model has no BatchNorm, and so no statistics to re-estimate")
    found = measured_statistics(model, images, protocol, on_image, len(norms) > 1, norms)
    for name, (mean, variance) in found.items():
        norms[name].running_mean.copy_(mean.float())
        norms[name].running_var.copy_(variance.float())


@torch.inference_mode()
def measured_statistics(
    model: PreTrainedModel,
    images: Iterable[dict[str, Any]],
    protocol: Protocol,
    on_image: OnImage = lambda: None,
    follow: bool = False,
    layers: Mapping[str, Any] | None = None,
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance (channels,), float64, of each BatchNorm's input over all of ``images``.

    ``layers`` are some of :func:`batch_norms`, None all.

    With ``follow`` the layers' own running statistics follow what is measured. A layer that nothing
    reaches has none.
    """
    norms, limits = layers or batch_norms(model), input_limits([model])
    moments = {name: _Moments(layer.num_features, follow) for name, layer in norms.items()}
    handles = [layer.register_forward_pre_hook(moments[name]) for name, layer in norms.items()]
    batches = _batches(list(images), protocol) if follow else ([row] for row in images)
    try:
        for batch in batches:
            for row in batch:
                if unfit := too_small(row["image"].shape[:2], protocol, limits):
                    raise UserError(f"an image to re-estimate statistics on: {unfit}")
            prepared = [
                prepare(row["image"], protocol, normalisation=normalisation_of(model))
                for row in batch
            ]
            pixels = torch.cat(prepared).to(model.device)
            sliding_logits(partial(logits_of, model), pixels, protocol)
            for _ in batch:
                on_image()
    finally:
        for handle in handles:
            handle.remove()
    return {name: one.mean_and_variance() for name, one in moments.items() if one.count}


def _batches(
    rows: Sequence[dict[str, Any]], protocol: Protocol
) -> Iterator[Sequence[dict[str, Any]]]:
    """Rows whose images reach the network in one size, few enough for memory."""
    sizes = [network_sizes(row["image"].shape[:2], protocol)[0] for row in rows]
    passes = -(-sum(height * width for height, width in sizes) // _PIXELS)
    for first in range(passes):
        together: dict[Size, list[dict[str, Any]]] = {}
        for at in range(first, len(rows), passes):
            together.setdefault(sizes[at], []).append(rows[at])
        yield from together.values()


class _Moments:
    """Per-channel mean and variance over all inputs of a layer, in float64."""

    def __init__(self, channels: int, follow: bool) -> None:
        self.count, self._follow = 0, follow
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)

    def __call__(self, layer: Any, inputs: tuple[torch.Tensor]) -> None:
        values = inputs[0].detach()
        # Apple's GPUs have no float64.
        values = values.cpu() if values.device.type == "mps" else values
        self.count += values.numel() // values.shape[1]
        # One image at a time: float64 takes twice the memory.
        for one in values.split(1):
            exact = one.double()
            self._sum += exact.sum((0, 2, 3)).cpu()
            self._squares += (exact**2).sum((0, 2, 3)).cpu()
        if self._follow:
            mean, variance = self.mean_and_variance()
            layer.running_mean.copy_(mean.float())
            layer.running_var.copy_(variance.float())

    def mean_and_variance(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self._sum / self.count
        # Rounding may bring it below 0 where a channel is constant.
        return mean, (self._squares / self.count - mean**2).clamp(min=0)
