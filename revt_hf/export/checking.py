"""Whether a graph gives what the network gives, pixel by pixel, on real images."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm import tqdm

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.class_maps import Size
from revt_hf.evaluation.predictor import ClassMap, Image, Segmenter
from revt_hf.models.onnx_file import GraphRecord

# Share of pixels with another class, by precision; 8 bits are judged by mIoU.
LIMITS = {"fp32": 1e-4, "fp16": 1e-2}
# Logits this close, in standard deviations of logits, are equal but for rounding: where no mask of
# an EoMT or Mask2Former lies, all of them are nearly 0.
_ROUNDING = 1e-5
_SMALLER = 0.7


@dataclass(frozen=True)
class PixelCheck:
    """What a comparison of class maps found.

    ``largest_margin`` is between the network's logits of its own class and of the graph's, among
    the pixels that differ; None without any. ``spread`` is the standard deviation of the logits.
    """

    images: int
    pixels: int
    differing: int
    largest_margin: float | None
    spread: float

    @property
    def text(self) -> str:
        found = f"{self.differing:,} of {self.pixels:,} pixels differ on {self.images} images"
        if self.largest_margin is None:
            return found
        return (
            f"{found}; the logits of both classes are at most {self.largest_margin:.2g} apart "
            f"there (standard deviation of logits: {self.spread:.2g})"
        )


def fitted(image: Image, record: GraphRecord, number: int, minimum: int) -> Image:
    """An image in a size whose class map the graph can make.

    Where it takes any, every second image has an odd size of its own: a graph that is right for
    the size of its example only is found out.
    """
    if record.size is not None:
        size = record.image_size or record.size
    elif number % 2:
        width, height = (max(minimum, int(side * _SMALLER)) | 1 for side in image.shape[1::-1])
        size = width, height
    else:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def view(record: GraphRecord) -> Protocol:
    """How an image of a graph's own size reaches it: whole, once."""
    return Protocol(max_size=record.size or record.protocol.max_size)


@torch.inference_mode()
def compare(
    ours: Segmenter, graph: Segmenter, images: Sequence[Image], protocol: Protocol, quiet: bool
) -> PixelCheck:
    """Compare the class maps of a network and of its graph."""
    pixels = differing = 0
    margins: list[float] = []
    spreads: list[float] = []
    for image in tqdm(images, unit="image", desc="check", disable=quiet):
        seen: list[tuple[torch.Tensor, Size]] = []
        ((own,),) = ours.output_maps(
            [image], protocol, lambda logits, size, *_, kept=seen: kept.append((logits, size))
        )
        other = graph.class_map(image, protocol)
        ((logits, network_size),) = seen
        spreads.append(float(logits.std()))
        pixels += own.size
        count = int((own != other).sum())
        differing += count
        if count:
            margins.append(_largest_margin(own, other, logits, network_size))
    largest = max(margins, default=None)
    return PixelCheck(len(images), pixels, differing, largest, float(np.mean(spreads)))


def _largest_margin(
    own: ClassMap, other: NDArray[np.uint8], logits: torch.Tensor, network_size: Size
) -> float:
    """Between the logits (1, C, h, w) of two class maps, where these differ."""
    for size in (network_size, own.shape):
        logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    full, differ = logits[0].float(), torch.from_numpy(own != other)
    if int(other.max()) >= len(full):
        return float("inf")
    first, second = (
        full.gather(0, torch.from_numpy(classes).long()[None])[0] for classes in (own, other)
    )
    return float((first - second)[differ].abs().max())


def refuse_wrong(check: PixelCheck, precision: str, label: str) -> None:
    """Refuse a graph that differs from the network in more pixels than rounding explains."""
    limit = LIMITS.get(precision)
    if check.largest_margin is not None and check.largest_margin <= _ROUNDING * check.spread:
        return
    if limit is not None and check.differing > limit * check.pixels:
        raise UserError(
            f"{label}: onnxruntime does not compute what the network does, so nothing is written: "
            f"{check.text}, and at most {limit:.2%} may"
        )
