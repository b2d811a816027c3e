"""Logits, resized twice as in ``encoder_decoder.py``, to class map: a few planes in memory."""

import functools
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Size = tuple[int, int]

# Rows of the image whose channels are in memory at once.
_STRIP = 32


class MeanProbabilities:
    """The mean of the softmax of several logits of one image, and its class map."""

    # Logits are kept at the network's small size and resized strip by strip. If they outgrow the
    # image's own channels, they are summed there: memory does not grow with views and members.

    def __init__(self, image_size: Size, terms: int) -> None:
        self._size, self._terms = image_size, terms
        self._kept: list[tuple[torch.Tensor, Size]] = []
        self._total: torch.Tensor | None = None

    def add(self, logits: torch.Tensor, network_size: Size) -> None:
        """Count one of the terms: logits (C, h, w) whose network input had ``network_size``."""
        self._kept.append((logits.float(), network_size))
        height, width = self._size
        outgrown = sum(kept.numel() for kept, _ in self._kept) > logits.shape[0] * height * width
        if outgrown and self._terms > 1:
            total = self._total
            if total is None:
                total = logits.new_zeros((logits.shape[0], *self._size), dtype=torch.float32)
            for top, bottom in self._strips():
                total[:, top:bottom] = self._sum(top, bottom)
            self._total, self._kept = total, []

    @torch.inference_mode()
    def class_map(self) -> NDArray[np.uint8]:
        if self._terms == 1:
            # The arg max of a single softmax is that of its logits.
            ((logits, network_size),) = self._kept
            return class_map(logits, network_size, self._size)
        classes = np.empty(self._size, dtype=np.uint8)
        for top, bottom in self._strips():
            best = self._sum(top, bottom).argmax(0)
            classes[top:bottom] = best.to(torch.uint8).cpu().numpy()
        return classes

    def strips(self) -> Iterator[torch.Tensor]:
        """The probabilities (C, rows, W), float32, of strips from top to bottom."""
        for top, bottom in self._strips():
            yield self._sum(top, bottom) / self._terms

    def _strips(self) -> list[tuple[int, int]]:
        height = self._size[0]
        return [(top, min(top + _STRIP, height)) for top in range(0, height, _STRIP)]

    def _sum(self, top: int, bottom: int) -> torch.Tensor:
        strips = [
            _rows(logits, (network_size, self._size), top, bottom).softmax(0)
            for logits, network_size in self._kept
        ]
        if self._total is not None:
            strips.append(self._total[:, top:bottom])
        return functools.reduce(torch.add, strips)


class FinishedMap(MeanProbabilities):
    """A class map (H, W), uint8, that a network has made itself."""

    def __init__(self, classes: NDArray[np.uint8]) -> None:
        super().__init__((classes.shape[0], classes.shape[1]), 1)
        self._classes = classes

    def class_map(self) -> NDArray[np.uint8]:
        return self._classes


def _rows(logits: torch.Tensor, sizes: tuple[Size, ...], top: int, bottom: int) -> torch.Tensor:
    """Some rows of logits (C, h, w) after bilinear resizes to each of ``sizes`` in turn."""
    if not sizes:
        return logits[:, top:bottom]
    *before, (height, width) = sizes
    source_height = before[-1][0] if before else logits.shape[1]
    # Pixel centres are at 0.5, as in ``interpolate(align_corners=False)``.
    centres = torch.arange(top, bottom, dtype=torch.float32, device=logits.device) + 0.5
    centres = (centres * (source_height / height) - 0.5).clamp(0, source_height - 1)
    upper = centres.floor().long()
    lower = (upper + 1).clamp(max=source_height - 1)
    first, last = int(upper[0]), int(lower[-1])
    source = _rows(logits, tuple(before), first, last + 1)
    weight = (centres - upper)[:, None]
    rows = torch.lerp(source[:, upper - first], source[:, lower - first], weight)
    size = (bottom - top, width)
    return functional.interpolate(rows[None], size=size, mode="bilinear", align_corners=False)[0]


def class_map(logits: torch.Tensor, network_size: Size, image_size: Size) -> NDArray[np.uint8]:
    """Arg max of logits (C, h, w) after bilinear resizes to the network's and the image's size."""
    if logits.device.type == "cpu":
        return _class_map_cpu(logits.float().numpy(), network_size, image_size)
    return _class_map_torch(logits.float(), network_size, image_size)


def _class_map_cpu(
    logits: NDArray[np.float32], network_size: Size, image_size: Size
) -> NDArray[np.uint8]:
    # One channel at a time with a running maximum: a few planes in memory, all of them reused.
    best = np.empty(image_size, dtype=np.float32)
    plane = np.empty_like(best)
    between = np.empty(network_size, dtype=np.float32) if network_size != image_size else None
    classes = np.zeros(image_size, dtype=np.uint8)
    higher = np.empty_like(classes)
    _resize(logits[0], between, best)
    for channel in range(1, logits.shape[0]):
        _resize(logits[channel], between, plane)
        cv2.compare(plane, best, cv2.CMP_GT, dst=higher)
        cv2.max(plane, best, dst=best)
        # "higher" is 0 or 255; channels come in rising order, so the last one set is the arg max.
        # (Not with OpenCV, which takes a 1x1 array for a scalar.)
        np.minimum(higher, np.uint8(channel), out=higher)
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
    logits: torch.Tensor, network_size: Size, image_size: Size
) -> NDArray[np.uint8]:
    best: torch.Tensor | None = None
    classes = torch.zeros(image_size, dtype=torch.uint8, device=logits.device)
    for channel in range(logits.shape[0]):
        plane = logits[None, channel : channel + 1]
        for size in (network_size, image_size):
            plane = functional.interpolate(plane, size=size, mode="bilinear", align_corners=False)
        plane = plane[0, 0]
        if best is None:
            best = plane
            continue
        higher = plane > best
        classes.masked_fill_(higher, channel)
        best = torch.maximum(plane, best)
    return classes.cpu().numpy()
