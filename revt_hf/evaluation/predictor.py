"""Image to class map: the original's test protocol (``test_time_aug.py``) and models."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.class_mapping import ClassMapping
from revt_hf.data.label_space import LabelSpace
from revt_hf.data.normalisation import IMAGENET, Normalisation, normalisation_of
from revt_hf.data.reading import fit_size, resize_to_fit
from revt_hf.evaluation.class_maps import FinishedMap, MeanProbabilities, Size
from revt_hf.evaluation.result import EnsembleInfo
from revt_hf.models.folded_head import bf16_autocast
from revt_hf.models.load import label_space, network_sha256
from revt_hf.models.networks import family_of_model, logits_of
from revt_hf.models.onnx_file import OnnxNetwork

Model: TypeAlias = PreTrainedModel
Models = Sequence[Model]
Image = NDArray[np.uint8]
ClassMap = NDArray[np.uint8]
# Pixels (N, 3, H, W), normalised, to logits (N, C, h, w).
Network = Callable[[torch.Tensor], torch.Tensor]
# Called with logits (N, C, h, w), the (height, width) of the network's input, the scale of the
# view, and whether it is mirrored.
OnLogits = Callable[[torch.Tensor, Size, float, bool], None]


def network_sizes(image_size: Size, protocol: Protocol) -> tuple[Size, ...]:
    """The (height, width) of the network's input at each of the protocol's scales."""
    limits = (_max_size(image_size, protocol, scale) for scale in protocol.scales)
    return tuple(fit_size(*image_size, max_size) for max_size in limits)


def _max_size(image_size: Size, protocol: Protocol, scale: float) -> tuple[int, int]:
    width, height = protocol.max_size or image_size[::-1]
    return max(1, int(width * scale)), max(1, int(height * scale))


def prepare(
    image: Image,
    protocol: Protocol,
    scale: float = 1.0,
    normalisation: Normalisation = IMAGENET,
) -> torch.Tensor:
    """Network input (1, 3, h, w) float32 of an RGB image (H, W, 3) uint8 at a protocol's scale."""
    height, width = image.shape[:2]
    image = resize_to_fit(image, _max_size((height, width), protocol, scale))
    mean, std = (np.array(part, np.float32) for part in (normalisation.mean, normalisation.std))
    pixels = (image.astype(np.float32) - mean) / std
    if normalisation.do_flip_channel_order:
        pixels = pixels[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


@dataclass(frozen=True)
class Segmenter:
    """A model or an ensemble, whose inputs are normalised for the first model."""

    networks: tuple[Network, ...]  # their probabilities are averaged
    modules: tuple[nn.Module, ...]  # all that runs
    models: tuple[Model, ...]
    combine: str | None = None
    head: int | None = None
    bf16: bool = False
    outputs: int = 1  # decode heads, whose logits lie side by side in a network's channels
    mapping: ClassMapping | None = None
    mapped_to: LabelSpace | None = None  # the classes in class maps, if not the models' own

    @property
    def space(self) -> LabelSpace:
        """The classes in its class maps."""
        return self.mapped_to or label_space(self.models[0])

    def mapped(self, mapping: ClassMapping, domain: LabelSpace) -> "Segmenter":
        """The same with a domain's classes in class maps, and 255 without a counterpart."""
        return replace(self, mapping=mapping.between(self.space, domain), mapped_to=domain)

    @property
    def device(self) -> torch.device:
        return self.models[0].device

    @cached_property
    def network_sha256(self) -> tuple[str, ...]:
        return tuple(map(network_sha256, self.models))

    @property
    def ensemble(self) -> EnsembleInfo | None:
        if self.combine is None:
            return None
        return EnsembleInfo(members=len(self.models), combine=self.combine, head=self.head)

    def class_map(self, image: Image, protocol: Protocol) -> ClassMap:
        """The class map (H, W), uint8 train ids, of an RGB image (H, W, 3), uint8."""
        return self.class_maps([image], protocol)[0]

    def class_maps(self, images: Sequence[Image], protocol: Protocol) -> list[ClassMap]:
        """The class maps of images that go through the network together."""
        return self.output_maps(images, protocol)[0]

    def output_maps(
        self, images: Sequence[Image], protocol: Protocol, on_logits: OnLogits | None = None
    ) -> list[list[ClassMap]]:
        """The class maps of each output; ``on_logits`` sees the logits of each view."""
        found = self.probabilities(images, protocol, on_logits)
        return [[self.class_map_of(one) for one in of_output] for of_output in found]

    def class_map_of(self, found: MeanProbabilities) -> ClassMap:
        """The class map of probabilities of its own classes."""
        own = found.class_map()
        return own if self.table is None else self.table[own]

    @cached_property
    def table(self) -> NDArray[np.uint8] | None:
        """The id in class maps (256,) by that of the models' class; None where both are the same.

        It is 255 without a counterpart.
        """
        if self.mapping is None or self.mapped_to is None:
            return None
        return self.mapping.table(label_space(self.models[0]), self.mapped_to)

    @torch.inference_mode()
    def probabilities(
        self, images: Sequence[Image], protocol: Protocol, on_logits: OnLogits | None = None
    ) -> list[list[MeanProbabilities]]:
        """The probabilities of the models' own classes, of each output and image."""
        if protocol.views > 1 and any(family_of_model(model).masks for model in self.models):
            raise UserError("scores of masks are no logits, whose views could be averaged: use one")
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        terms = protocol.views * len(self.networks)
        means = [[MeanProbabilities(size, terms) for size in sizes] for _ in range(self.outputs)]
        for pixels, scale, flipped in self._views(images, protocol):
            network_size = (pixels.shape[2], pixels.shape[3])
            for network in self.networks:
                logits = sliding_logits(network, pixels, protocol)
                if on_logits is not None:
                    on_logits(logits, network_size, scale, flipped)
                parts = logits.chunk(self.outputs, dim=1)
                for part, of_output in zip(parts, means, strict=True):
                    for one, mean in zip(part, of_output, strict=True):
                        mean.add(one.flip(-1) if flipped else one, network_size)
        return means

    def _views(
        self, images: Sequence[Image], protocol: Protocol
    ) -> Iterator[tuple[torch.Tensor, float, bool]]:
        """The networks' inputs (N, 3, h, w), the scale of each, and whether it is mirrored."""
        normalisation = normalisation_of(self.models[0])
        for scale in protocol.scales:
            prepared = [prepare(image, protocol, scale, normalisation) for image in images]
            pixels = torch.cat(prepared).to(self.device)
            yield pixels, scale, False
            if protocol.flip:
                yield pixels.flip(-1), scale, True


class ClassMapSegmenter(Segmenter):
    """A graph that makes class maps itself, of whole images from one view."""

    def probabilities(
        self, images: Sequence[Image], protocol: Protocol, on_logits: OnLogits | None = None
    ) -> list[list[MeanProbabilities]]:
        """The class maps of each image, which have no probabilities."""
        graph = self.models[0]
        assert isinstance(graph, OnnxNetwork) and on_logits is None  # noqa: S101
        if protocol.views > 1:
            raise UserError(f"{graph.label} makes class maps, which have no mean: use one view")
        found: list[MeanProbabilities] = []
        for image in images:
            ((pixels, *_),) = self._views([image], protocol)
            found.append(FinishedMap(graph.class_map(pixels, (image.shape[0], image.shape[1]))))
        return [found]


def model_segmenter(model: Model, bf16: bool = False) -> Segmenter:
    if isinstance(model, OnnxNetwork) and model.ends_in_classes:
        return ClassMapSegmenter((), (model,), (model,))

    def network(pixels: torch.Tensor) -> torch.Tensor:
        with bf16_autocast(model.device, bf16):
            return logits_of(model, pixels)

    return Segmenter(networks=(network,), modules=(model,), models=(model,), bf16=bf16)


def heads_segmenter(model: Model, heads: Sequence[nn.Module]) -> Segmenter:
    """A model with several decode heads (see :func:`copied_head`), each an output.

    A SegFormer's encoder runs once for all heads.
    """
    shared, encoder = family_of_model(model) is SEGFORMER, model.base_model

    def network(pixels: torch.Tensor) -> torch.Tensor:
        if not shared:
            return torch.cat([logits_of(head, pixels, bare=True) for head in heads], dim=1)
        features = encoder_features(model, pixels)
        return torch.cat([head(features) for head in heads], dim=1)

    modules = (encoder, *heads) if shared else tuple(heads)
    return Segmenter((network,), modules, (model,), outputs=len(heads))


def own_head(model: Model) -> nn.Module:
    """The decode head as :func:`heads_segmenter` takes it: of other families the whole model."""
    return model.get_submodule("decode_head") if family_of_model(model) is SEGFORMER else model


def copied_head(model: Model) -> Any:
    """A copy of :func:`own_head`; a whole model shares the encoder's tensors with the original."""
    family = family_of_model(model)
    named = (*model.named_parameters(), *model.named_buffers())
    shared = {id(tensor): tensor for name, tensor in named if family.in_encoder(name)}
    return copy.deepcopy(own_head(model), shared)


def encoder_features(model: Model, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    output = model.base_model(pixels, output_hidden_states=True)
    stages: tuple[torch.Tensor, ...] = output.hidden_states
    return stages


def predict(model: Model, image: Image, protocol: Protocol | None = None) -> ClassMap:
    """Segment one image.

    Args:
        model: in eval mode, as :func:`revt_hf.load_model` returns it.
        image: (H, W, 3), uint8, RGB.
        protocol: how the image reaches the network; None for its native size.

    Returns:
        The class map (H, W), uint8: ids of the model's classes, train ids for Cityscapes'.

    Raises:
        UserError: the image has another shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(
            f"an image is (H, W, 3) of uint8, RGB, 0..255: this is {image.shape} of {image.dtype}"
        )
    return model_segmenter(model).class_map(image, protocol or Protocol(max_size=None))


def sliding_logits(network: Network, pixels: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """Logits of pixels, or the mean of windows' as mmsegmentation 0.x ``slide_inference`` does."""
    window = protocol.window or max(pixels.shape[2:])
    spans = [_spans(side, window, protocol.stride or window) for side in pixels.shape[2:]]
    windows = list(product(*spans))
    if len(windows) == 1:
        return network(pixels)
    total: torch.Tensor | None = None
    counts = pixels.new_zeros(pixels.shape[2:])
    for rows, columns in windows:
        part = pixels[:, :, rows, columns]
        logits = functional.interpolate(
            network(part), size=part.shape[2:], mode="bilinear", align_corners=False
        )
        if total is None:
            total = logits.new_zeros((*logits.shape[:2], *pixels.shape[2:]))
        total[:, :, rows, columns] += logits
        counts[rows, columns] += 1
    assert total is not None  # noqa: S101
    return total.div_(counts)


def _spans(length: int, window: int, stride: int) -> list[slice]:
    """The windows along one axis; the last one is pulled back inside."""
    steps = max(0, -(-(length - window) // stride)) + 1
    ends = (min(step * stride + window, length) for step in range(steps))
    return [slice(max(0, end - window), end) for end in ends]
