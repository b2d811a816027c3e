"""Picture to class map by the original's test protocol.

Resize to a bound (ratio kept, never padded), normalise, network, then the logits are resized
bilinearly twice, to the network's input size and to the picture's own, and the arg max is taken
(original: ``test_time_aug.py``, ``encoder_decoder.py``).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import SegformerForSemanticSegmentation

from revt_hf.imagenet import MEAN, STD
from revt_hf.recipe import Evaluation
from revt_hf.resize import bounded_resize

_MEAN = np.array(MEAN, dtype=np.float32)
_STD = np.array(STD, dtype=np.float32)

Size = tuple[int, int]


@dataclass(frozen=True)
class Protocol:
    """How pictures reach the network; the fields of a recipe's ``evaluation`` section.

    ``bound`` is (width, height), None is native size; ``window`` and ``stride`` (pixels, both or
    neither) slide over the resized picture; the probabilities of all ``scales``, with ``flip``
    also mirrored, are averaged.
    """

    bound: tuple[int, int] | None = (1024, 512)
    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @classmethod
    def of(cls, evaluation: Evaluation) -> "Protocol":
        """The protocol that a recipe's section or ``PROTOCOLS`` describes."""
        return cls(**evaluation.model_dump())


def prepare(image: NDArray[np.uint8], protocol: Protocol) -> torch.Tensor:
    """Network input of an RGB picture.

    Args:
        image: (H, W, 3) uint8.
        protocol: see :class:`Protocol`.

    Returns:
        (1, 3, h, w) float32, ImageNet-normalised.
    """
    if protocol.bound is not None:
        image = bounded_resize(image, protocol.bound, cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    pixels = (image.astype(np.float32) - _MEAN) / _STD
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


@torch.inference_mode()
def predict(
    model: SegformerForSemanticSegmentation, image: NDArray[np.uint8], protocol: Protocol
) -> NDArray[np.uint8]:
    """The class map (H, W), uint8 train ids, of an RGB picture (H, W, 3), uint8."""
    pixels = prepare(image, protocol)
    logits = model(pixel_values=pixels.to(model.device)).logits
    height, width = image.shape[:2]
    return class_map(logits[0], (pixels.shape[2], pixels.shape[3]), (height, width))


def class_map(logits: torch.Tensor, network_size: Size, picture_size: Size) -> NDArray[np.uint8]:
    """Arg max of logits at the picture's size.

    Args:
        logits: (C, h, w), C at most 255.
        network_size: (height, width) of the network's input, the first resize.
        picture_size: (height, width) of the picture, the second.

    Returns:
        (height, width) uint8.
    """
    if logits.device.type == "cpu":
        return _class_map_cpu(logits.float().numpy(), network_size, picture_size)
    return _class_map_torch(logits.float(), network_size, picture_size)


def _class_map_cpu(
    logits: NDArray[np.float32], network_size: Size, picture_size: Size
) -> NDArray[np.uint8]:
    # One channel at a time with a running maximum: a few planes in memory, all of them reused.
    best = np.empty(picture_size, dtype=np.float32)
    plane = np.empty_like(best)
    between = np.empty(network_size, dtype=np.float32) if network_size != picture_size else None
    classes = np.zeros(picture_size, dtype=np.uint8)
    higher = np.empty_like(classes)
    _resize(logits[0], between, best)
    for channel in range(1, logits.shape[0]):
        _resize(logits[channel], between, plane)
        cv2.compare(plane, best, cv2.CMP_GT, dst=higher)
        cv2.max(plane, best, dst=best)
        # "higher" is 0 or 255; channels come in rising order, so the last one set is the arg max.
        cv2.min(higher, float(channel), dst=higher)
        cv2.max(classes, higher, dst=classes)
    return classes


def _resize(
    plane: NDArray[np.float32], between: NDArray[np.float32] | None, result: NDArray[np.float32]
) -> None:
    """Bilinear resize into ``result``, by way of ``between`` if there is one."""
    for target in (between, result):
        if target is not None:
            cv2.resize(plane, target.shape[::-1], dst=target, interpolation=cv2.INTER_LINEAR)
            plane = target


def _class_map_torch(
    logits: torch.Tensor, network_size: Size, picture_size: Size
) -> NDArray[np.uint8]:
    best: torch.Tensor | None = None
    classes = torch.zeros(picture_size, dtype=torch.uint8, device=logits.device)
    for channel in range(logits.shape[0]):
        plane = logits[None, channel : channel + 1]
        for size in (network_size, picture_size):
            plane = functional.interpolate(plane, size=size, mode="bilinear", align_corners=False)
        plane = plane[0, 0]
        if best is None:
            best = plane
            continue
        higher = plane > best
        classes.masked_fill_(higher, channel)
        best = torch.maximum(plane, best)
    return classes.cpu().numpy()
