"""How fast ways of running a network are: the original's frame rate, and the best batch.

The time of an image is what mmsegmentation's ``tools/benchmark.py``, by which frame rates are
published, counts as well: normalised pixels to the device, network, logits to the image's size,
arg max, class map back in the CPU's memory. Decoding, resizing and normalising come before.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.core.resources import available_mib
from revt_hf.evaluation.class_maps import Size, class_map
from revt_hf.evaluation.cost import bytes_of, flops_of, parameters_of, peak_mib
from revt_hf.evaluation.predictor import Segmenter, prepare
from revt_hf.speed.attempts import OUT_OF_MEMORY, attempted
from revt_hf.speed.batches import LARGEST, BestBatch, best_batches
from revt_hf.speed.networks import smooth_image
from revt_hf.speed.timing import interleaved, seconds_of
from revt_hf.speed.variants import REFERENCE, Variant

# At each batch so many runs of each way, fewer and more by how long they take.
_LEAST, _MOST, _SECONDS = 3, 30, 2.0
# Of the memory that is left on a CPU; more would make the machine swap.
_MEMORY_SHARE = 0.8
_MIB = 2**20


@dataclass(frozen=True)
class InferenceOptions:
    """What is measured.

    Attributes:
        image: (height, width) of the image.
        max_size: (width, height) that it is resized to for the network, ratio kept; None: its own.
        images: timed of each way at batch 1.
        warm_up: images before them.
        frame_rate: measure images/s at batch 1.
        best_batch: search for the batch with most images/s.
        largest_batch: where that search ends.
    """

    image: Size = (512, 1024)
    max_size: tuple[int, int] | None = None
    images: int = 200
    warm_up: int = 5
    frame_rate: bool = True
    best_batch: bool = True
    largest_batch: int = LARGEST

    @property
    def protocol(self) -> Protocol:
        """How the image reaches the network."""
        return Protocol(max_size=self.max_size)


@dataclass(frozen=True)
class FrameRate:
    """Images/s at batch 1.

    Attributes:
        images_per_second: of the median image.
        mean_images_per_second: images by the seconds of all, as the original takes it.
        images: how many were timed.
    """

    images_per_second: float
    mean_images_per_second: float
    images: int


@dataclass
class InferenceRow:
    """One way of running one network.

    Attributes:
        model: its size, folder or Hub id.
        variant: the name of the way.
        parameters: of the network.
        flops: of one image (see :class:`revt_hf.evaluation.cost.Cost`).
        peak_mib: weights and working memory of one image; None if it does not run.
        differing: share (0..1) of the image's pixels with another class than transformers'
            default gives them; None without the latter.
        frame_rate: None if not measured.
        best_batch: None if not measured.
        best_batch_peak_mib: weights and working memory at that batch.
        failure: why it does not run.
    """

    model: str
    variant: str
    parameters: int
    flops: int
    peak_mib: float | None = None
    differing: float | None = None
    frame_rate: FrameRate | None = None
    best_batch: BestBatch | None = None
    best_batch_peak_mib: float | None = None
    failure: str | None = None

    @property
    def rate(self) -> float | None:
        """Images/s at batch 1."""
        return self.frame_rate.images_per_second if self.frame_rate else None

    @property
    def best_rate(self) -> float | None:
        """Images/s at the best batch."""
        return self.best_batch.images_per_second if self.best_batch else None

    def ratios(self, rows: Sequence["InferenceRow"]) -> tuple[float | None, float | None]:
        """Its rates by those of transformers' default for the same model, if they are there."""
        for row in rows:
            if row.model == self.model and row.variant == REFERENCE:
                return _ratio(self.rate, row.rate), _ratio(self.best_rate, row.best_rate)
        return None, None

    def to_json(self, rows: Sequence["InferenceRow"]) -> dict[str, Any]:
        """The row as JSON values; ``rows`` are all of the table."""
        ratio, best_ratio = self.ratios(rows)
        return {**asdict(self), "ratio_to_sdpa": ratio, "best_batch_ratio_to_sdpa": best_ratio}


def _ratio(rate: float | None, reference: float | None) -> float | None:
    return rate / reference if rate and reference else None


def measure_model(
    name: str,
    model: SegformerForSemanticSegmentation,
    variants: Mapping[str, Variant],
    options: InferenceOptions,
    device: torch.device,
    progress: Any,
) -> list[InferenceRow]:
    """A row for each way of running a model; they are timed in turn.

    Args:
        name: of the model.
        model: on the CPU; it stays as it is.
        variants: the ways.
        options: what is measured.
        device: where.
        progress: a tqdm bar that is updated by 1 with every timed run.
    """
    return _Measuring(name, variants, options, device, progress).rows(model)


class _Measuring:
    def __init__(
        self,
        name: str,
        variants: Mapping[str, Variant],
        options: InferenceOptions,
        device: torch.device,
        progress: Any,
    ) -> None:
        self._name, self._variants = name, variants
        self._options, self._device, self._progress = options, device, progress
        image = smooth_image(*options.image)
        self._pixels = prepare(image, options.protocol)
        self._rows: dict[str, InferenceRow] = {}
        self._segmenters: dict[str, Segmenter] = {}

    def rows(self, model: SegformerForSemanticSegmentation) -> list[InferenceRow]:
        # Past a number of compiled networks torch runs further ones as they are, and says nothing.
        torch.compiler.reset()
        self._start(model)
        for name, segmenter in self._segmenters.items():
            self._rows[name].peak_mib = self._peak_mib(name, segmenter, 1)
        if self._options.frame_rate:
            self._measure_frame_rates()
        if self._options.best_batch:
            self._search_batches()
        return list(self._rows.values())

    def _start(self, model: SegformerForSemanticSegmentation) -> None:
        """Run each way once, and compare what comes out."""
        maps: dict[str, NDArray[np.uint8]] = {}
        for name, variant in self._variants.items():
            self._say(name, "first run")
            plain = replace(variant, compiled=False).segmenter(model, torch.device("cpu"))
            row = InferenceRow(
                self._name,
                name,
                parameters_of(plain),
                flops_of(plain, self._options.image, self._options.protocol),
            )
            self._rows[name] = row
            first = attempted(partial(self._first_run, model, variant), variant.compiled)
            row.failure = first.failure
            if first.value is not None:
                self._segmenters[name], maps[name] = first.value
        for name in maps if REFERENCE in maps else ():
            self._rows[name].differing = float((maps[name] != maps[REFERENCE]).mean())

    def _first_run(
        self, model: SegformerForSemanticSegmentation, variant: Variant
    ) -> tuple[Segmenter, NDArray[np.uint8]]:
        segmenter = variant.segmenter(model, self._device)
        return segmenter, self._class_maps(segmenter, self._pixels)[0]

    @torch.inference_mode()
    def _class_maps(self, segmenter: Segmenter, pixels: torch.Tensor) -> list[NDArray[np.uint8]]:
        """What is timed: normalised pixels (N, 3, h, w) to class maps, both on the CPU."""
        (network,) = segmenter.networks
        size = (pixels.shape[2], pixels.shape[3])
        return [
            class_map(logits, size, self._options.image)
            for logits in network(pixels.to(self._device))
        ]

    def _measure_frame_rates(self) -> None:
        self._say("all", "batch 1")
        calls = {
            name: partial(self._class_maps, segmenter, self._pixels)
            for name, segmenter in self._segmenters.items()
        }
        for call in calls.values():
            for _ in range(self._options.warm_up):
                call()
        timed = interleaved(calls, self._device, self._options.images, self._progress.update)
        for name, seconds in timed.items():
            self._rows[name].frame_rate = FrameRate(
                images_per_second=1 / statistics.median(seconds),
                mean_images_per_second=1 / statistics.fmean(seconds),
                images=len(seconds),
            )

    def _peak_mib(self, name: str, segmenter: Segmenter, batch: int) -> float | None:
        self._say(name, f"memory, batch {batch}")
        options = self._options
        measure = partial(peak_mib, segmenter, options.image, options.protocol, batch)
        return attempted(measure, compiled=False).value

    def _search_batches(self) -> None:
        allowed = available_mib() * _MEMORY_SHARE
        measure = partial(self._rates, allowed)
        found = best_batches(list(self._segmenters), measure, self._options.largest_batch)
        for name, best in found.items():
            row = self._rows[name]
            if not best.batch:
                continue
            row.best_batch = best
            row.best_batch_peak_mib = (
                row.peak_mib
                if best.batch == 1
                else self._peak_mib(name, self._segmenters[name], best.batch)
            )

    def _rates(self, allowed_mib: float, batch: int, names: Sequence[str]) -> dict[str, Any]:
        """Images/s of ways at a batch, or why there are none."""
        pixels = self._pixels.expand(batch, -1, -1, -1).contiguous()
        if batch > 1:
            torch.compiler.reset()
        rates: dict[str, float | str] = {}
        calls, longest = {}, 0.0
        for name in names:
            self._say(name, f"batch {batch}")
            if self._device.type == "cpu" and self._working_mib(name, batch) > allowed_mib:
                rates[name] = OUT_OF_MEMORY
                continue
            call = partial(self._class_maps, self._segmenters[name], pixels)
            warm_up = attempted(call, self._variants[name].compiled)
            if warm_up.failure is not None:
                rates[name] = warm_up.failure
                continue
            calls[name] = call
            longest = max(longest, seconds_of(call, self._device))
        runs = min(_MOST, max(_LEAST, int(_SECONDS / longest))) if calls else 0
        self._progress.total += runs * len(calls)
        work = partial(interleaved, calls, self._device, runs, self._progress.update)
        timed = attempted(work, compiled=False)
        for name in calls:
            seconds = (timed.value or {}).get(name)
            rates[name] = batch / statistics.median(seconds) if seconds else str(timed.failure)
        return rates

    def _working_mib(self, name: str, batch: int) -> float:
        """About how much memory a batch takes beside the weights."""
        weights = bytes_of(self._segmenters[name]) / _MIB
        return batch * max(0.0, (self._rows[name].peak_mib or 0.0) - weights)

    def _say(self, variant: str, what: str) -> None:
        self._progress.set_postfix_str(f"{self._name} {variant}: {what}")
