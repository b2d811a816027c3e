"""Image to class map: the original's test protocol, its sliding window, scales and flip.

Resize to a max size (ratio kept, never padded), normalise, network, then the logits are resized
bilinearly twice, to the network's input size and to the image's own, and the arg max is taken
(original: ``test_time_aug.py``, ``encoder_decoder.py``).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.data.normalisation import IMAGENET, Normalisation, normalisation_of
from revt_hf.data.reading import fit_size, resize_to_fit
from revt_hf.evaluation.class_maps import MeanProbabilities, Size, class_map
from revt_hf.evaluation.result import EnsembleInfo
from revt_hf.models.load import network_sha256
from revt_hf.models.precision import bf16_autocast

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
    return tuple(
        image_size if max_size is None else fit_size(*image_size, max_size) for max_size in limits
    )


def _max_size(image_size: Size, protocol: Protocol, scale: float) -> tuple[int, int] | None:
    if protocol.max_size is None and scale == 1:
        return None
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
    max_size = _max_size((height, width), protocol, scale)
    if max_size is not None:
        image = resize_to_fit(image, max_size, cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    mean, std = (np.array(part, np.float32) for part in (normalisation.mean, normalisation.std))
    pixels = (image.astype(np.float32) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


@dataclass(frozen=True)
class Segmenter:
    """A model or an ensemble that gives every pixel of an image a class.

    The probabilities of several networks are averaged; ``modules`` is everything that runs.
    ``outputs`` decode heads give their logits side by side in a network's channels.
    """

    networks: tuple[Network, ...]
    modules: tuple[nn.Module, ...]
    models: tuple[SegformerForSemanticSegmentation, ...]
    combine: str | None = None
    head: int | None = None
    bf16: bool = False
    outputs: int = 1

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation of its networks' inputs: that of the first model."""
        return normalisation_of(self.models[0])

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.models[0].device

    @cached_property
    def network_sha256(self) -> tuple[str, ...]:
        """The :func:`network_sha256` of each model, computed when first read."""
        return tuple(map(network_sha256, self.models))

    @property
    def ensemble(self) -> EnsembleInfo | None:
        """How it combines its members, if it is an ensemble."""
        if self.combine is None:
            return None
        return EnsembleInfo(members=len(self.models), combine=self.combine, head=self.head)

    def class_map(self, image: Image, protocol: Protocol) -> ClassMap:
        """The class map (H, W), uint8 train ids, of an RGB image (H, W, 3), uint8."""
        return self.class_maps([image], protocol)[0]

    def class_maps(self, images: Sequence[Image], protocol: Protocol) -> list[ClassMap]:
        """The class maps of images that go through the network together; see :meth:`class_map`."""
        return self.output_maps(images, protocol)[0]

    @torch.inference_mode()
    def output_maps(
        self, images: Sequence[Image], protocol: Protocol, on_logits: OnLogits | None = None
    ) -> list[list[ClassMap]]:
        """The :meth:`class_maps` of each output; ``on_logits`` sees the logits of each view."""
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        means = [[MeanProbabilities(size) for size in sizes] for _ in range(self.outputs)]
        for pixels, scale, flipped in self._views(images, protocol):
            network_size = (pixels.shape[2], pixels.shape[3])
            for network in self.networks:
                logits = sliding_logits(network, pixels, protocol)
                if on_logits is not None:
                    on_logits(logits, network_size, scale, flipped)
                parts = logits.chunk(self.outputs, dim=1)
                if protocol.views == len(self.networks) == 1:
                    # The arg max of a single softmax is that of its logits.
                    pairs = [zip(part, sizes, strict=True) for part in parts]
                    return [[class_map(one, network_size, size) for one, size in p] for p in pairs]
                for part, of_output in zip(parts, means, strict=True):
                    for one, mean in zip(part, of_output, strict=True):
                        mean.add(one.flip(-1) if flipped else one, network_size)
        return [[mean.class_map() for mean in of_output] for of_output in means]

    def _views(
        self, images: Sequence[Image], protocol: Protocol
    ) -> Iterator[tuple[torch.Tensor, float, bool]]:
        """The networks' inputs (N, 3, h, w), the scale of each, and whether it is mirrored."""
        for scale in protocol.scales:
            prepared = [prepare(image, protocol, scale, self.normalisation) for image in images]
            pixels = torch.cat(prepared).to(self.device)
            yield pixels, scale, False
            if protocol.flip:
                yield pixels.flip(-1), scale, True


def model_segmenter(model: SegformerForSemanticSegmentation, bf16: bool = False) -> Segmenter:
    """A single SegFormer as a segmenter."""

    def network(pixels: torch.Tensor) -> torch.Tensor:
        with bf16_autocast(model.device, bf16):
            logits: torch.Tensor = model(pixel_values=pixels).logits
        return logits

    return Segmenter(networks=(network,), modules=(model,), models=(model,), bf16=bf16)


def heads_segmenter(
    model: SegformerForSemanticSegmentation, heads: Sequence[nn.Module]
) -> Segmenter:
    """A model's encoder, which sees an image once, with several decode heads, each an output."""

    def network(pixels: torch.Tensor) -> torch.Tensor:
        features = encoder_features(model, pixels)
        return torch.cat([head(features) for head in heads], dim=1)

    return Segmenter((network,), (model.segformer, *heads), (model,), outputs=len(heads))


def encoder_features(
    model: SegformerForSemanticSegmentation, pixels: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The encoder's four stages, each (N, channels, h, w)."""
    stages: tuple[torch.Tensor, ...] = model.segformer(
        pixels, output_hidden_states=True
    ).hidden_states
    return stages


def predict(
    model: SegformerForSemanticSegmentation, image: Image, protocol: Protocol | None = None
) -> ClassMap:
    """Segment one image.

    Args:
        model: in eval mode, as :func:`revt_hf.load_model` returns it.
        image: (H, W, 3), uint8, RGB.
        protocol: how the image reaches the network; None for its native size.

    Returns:
        The class map (H, W), uint8, train ids.
    """
    return model_segmenter(model).class_map(image, protocol or Protocol(max_size=None))


def sliding_logits(network: Network, pixels: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """Logits of the network's input, by sliding windows if the protocol has them.

    Each window's logits are resized to its size; where windows overlap they are averaged
    (mmsegmentation 0.x ``EncoderDecoder.slide_inference``): (N, C, H, W) of pixels (N, 3, H, W).
    """
    windows = list(_windows((pixels.shape[2], pixels.shape[3]), protocol))
    if len(windows) == 1:
        return network(pixels)
    total: torch.Tensor | None = None
    counts = pixels.new_zeros(pixels.shape[2:])
    for rows, columns in windows:
        window = pixels[:, :, rows, columns]
        logits = functional.interpolate(
            network(window), size=window.shape[2:], mode="bilinear", align_corners=False
        )
        if total is None:
            total = logits.new_zeros((*logits.shape[:2], *pixels.shape[2:]))
        total[:, :, rows, columns] += logits
        counts[rows, columns] += 1
    assert total is not None  # noqa: S101
    return total.div_(counts)


def _windows(size: Size, protocol: Protocol) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each window; the last ones are pulled back inside."""
    if protocol.window is None or protocol.stride is None:
        yield slice(0, size[0]), slice(0, size[1])
        return
    yield from product(*(_spans(length, protocol.window, protocol.stride) for length in size))


def _spans(length: int, window: int, stride: int) -> list[slice]:
    steps = max(0, -(-(length - window) // stride)) + 1
    ends = (min(step * stride + window, length) for step in range(steps))
    return [slice(max(0, end - window), end) for end in ends]
