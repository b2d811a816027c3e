"""How fast SegFormers predict: transformers' own variants and ours, at batch 1 and the best batch.

An image's time covers what mmsegmentation's ``tools/benchmark.py`` covers, by which SegFormer's
frame rates were measured: normalised pixels to the device, network, logits to the image's size,
arg max, class map to the CPU. Decoding, resizing and normalising come before.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.benchmark import Timer

from revt_hf.checkpoints.architecture import SIZES
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.core.resources import available_mib, growth_mib
from revt_hf.evaluation.class_maps import Size, class_map
from revt_hf.evaluation.cost import flops_of, parameters_of, peak_mib
from revt_hf.evaluation.predictor import Segmenter, network_sizes, prepare
from revt_hf.results.layout import Layout
from revt_hf.speed import measuring
from revt_hf.speed.measuring import BenchmarkResult, Model, attempt, column, in_a_row
from revt_hf.speed.networks import (
    REFERENCE,
    SMALLEST,
    VARIANTS,
    Variant,
    chosen_variants,
    random_network,
    smooth_image,
)

SLOWER, LIMIT = "not faster", "largest batch"
# A larger batch counts as faster only if it gains more than repeated runs differ by.
_RISE = 1.02
# Of the memory that is free on a CPU; more would make the machine swap.
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class InferenceOptions:
    """What is measured.

    Attributes:
        image: (height, width) of the image.
        max_size: (width, height) that it is resized to for the network, ratio kept; None: native.
        images: timed images of each variant at batch 1.
        warm_up: images before them.
        frame_rate: measure images/s at batch 1.
        best_batch: search for the batch with the most images/s.
        largest_batch: where that search ends.
    """

    image: Size = (512, 1024)
    max_size: tuple[int, int] | None = None
    images: int = 200
    warm_up: int = 5
    frame_rate: bool = True
    best_batch: bool = True
    largest_batch: int = 1024

    @property
    def protocol(self) -> Protocol:
        """How the image reaches the network."""
        return Protocol(max_size=self.max_size)


@dataclass
class InferenceRow:
    """A variant of a model; None is what was not measured."""

    model: str = column("model")
    variant: str = column("variant")
    parameters: int = column("parameters (M)", 1e-6, 2)
    flops: int = column("GFLOPs", 1e-9, 1)  # of one image
    # Weights and working memory of one image, on a GPU.
    peak_mib: float | None = column("peak MiB", decimals=0)
    # Share of pixels with another class than by transformers' default.
    differing: float | None = column("other classes %", 100, 2)
    images_per_second: float | None = column("images/s")  # of the median image
    mean_images_per_second: float | None = None  # as the original computes it
    ratio_to_sdpa: float | None = column(f"x {REFERENCE}", decimals=2)
    best_images_per_second: float | None = column("best images/s")
    best_ratio_to_sdpa: float | None = column(f"best x {REFERENCE}", decimals=2)
    best_batch: int | None = column("batch")
    best_batch_peak_mib: float | None = column("its peak MiB", decimals=0)
    # Images/s of each batch that was tried, and why no larger one was.
    tried: dict[int, float] | None = None
    ended_by: str | None = None
    failure: str | None = None


def inference_benchmark(
    models: Mapping[str, str] | None = None,
    sizes: Sequence[str] = (),
    variants: Sequence[str] = (),
    options: InferenceOptions | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> BenchmarkResult:
    """Measure how fast models predict; the result has rows of :class:`InferenceRow`.

    Args:
        models: folders or Hub IDs, by name.
        sizes: ``b0`` to ``b5``, with random weights; without models and sizes all six.
        variants: names of ``VARIANTS``; none for all.
        options: what is measured.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None for a GPU if there is one.
        quiet: show no progress bar.

    Raises:
        UserError: a model cannot be loaded, or a size, a variant, the image's size or the device
            does not exist.
    """
    options = options or InferenceOptions()
    where, chosen = measuring.chosen_device(device), chosen_variants(variants)
    ((height, width),) = network_sizes(options.image, options.protocol)
    if min(height, width) < SMALLEST:
        raise UserError(
            f"--image and --max-size make {width}x{height} pixels: the network needs at least "
            f"{SMALLEST} on each side"
        )
    sizes = sizes or ([] if models else list(SIZES))
    makers = measuring.model_makers(models or {}, sizes, random_network)
    machine = measuring.machine_facts(where)
    rows: list[InferenceRow] = []
    total = len(makers) * len(chosen) * options.images * options.frame_rate
    with measuring.progress_bar(total, "image", quiet) as progress:
        for name, make in makers.items():
            rows += measure_model(name, make(), chosen, options, where, progress)
    protocol = {
        **asdict(options),
        "image": options.image[::-1],
        "in_a_row": in_a_row(options.images),
        "network_input": options.protocol.text,
    }
    tables = [_table(rows, options, machine)]
    return BenchmarkResult("inference", machine, protocol, rows, tables)


def measure_model(
    name: str,
    model: Model,
    variants: Mapping[str, Variant],
    options: InferenceOptions,
    device: torch.device,
    progress: Any,
) -> list[InferenceRow]:
    """A row for each variant of a model; ``progress`` is a tqdm bar that timed images update."""
    # Beyond a number of compiled networks torch silently runs further ones uncompiled.
    torch.compiler.reset()
    pixels = prepare(smooth_image(*options.image), options.protocol)
    rows: dict[str, InferenceRow] = {}
    running: dict[str, partial[list[NDArray[np.uint8]]]] = {}
    maps: dict[str, NDArray[np.uint8]] = {}
    memory: dict[str, Callable[[int], float | None]] = {}
    for key, variant in variants.items():
        progress.set_postfix_str(f"{name} {key}: first run")
        plain = variant.segmenter(model, torch.device("cpu"))
        flops = flops_of(plain, options.image, options.protocol)
        row = rows[key] = InferenceRow(name, key, parameters_of(plain), flops)
        segmenter, row.failure = attempt(partial(variant.segmenter, model, device))
        if segmenter is None:
            continue
        predict = partial(_class_maps, segmenter, options.image)
        first, row.failure = attempt(partial(predict, pixels), variant.compiled)
        if first is not None:
            running[key], maps[key] = predict, first[0]
            memory[key] = partial(peak_mib, segmenter, options.image, options.protocol)
            row.peak_mib, _ = attempt(partial(memory[key], 1))
    if options.frame_rate:
        progress.set_postfix_str(f"{name}: batch 1")
        calls = {key: partial(predict, pixels) for key, predict in running.items()}
        for call in calls.values():
            for _ in range(options.warm_up):
                call()
        timed = measuring.timed_in_turns(calls, options.images, progress.update)
        for key, seconds in timed.items():
            rows[key].images_per_second = 1 / statistics.median(seconds)
            rows[key].mean_images_per_second = 1 / statistics.fmean(seconds)
    for key, predict in running.items() if options.best_batch else ():
        progress.set_postfix_str(f"{name} {key}: best batch")
        row, compiled = rows[key], variants[key].compiled
        rates, row.ended_by = rates_by_batch(predict, pixels, compiled, options.largest_batch)
        row.tried = rates
        if rates:
            row.best_batch = max(rates, key=lambda batch: rates[batch])
            row.best_images_per_second = rates[row.best_batch]
            row.best_batch_peak_mib, _ = attempt(partial(memory[key], row.best_batch))
    if REFERENCE in maps:
        reference = rows[REFERENCE]
        for key, found in maps.items():
            row = rows[key]
            row.differing = float((found != maps[REFERENCE]).mean())
            row.ratio_to_sdpa = _ratio(row.images_per_second, reference.images_per_second)
            best = row.best_images_per_second, reference.best_images_per_second
            row.best_ratio_to_sdpa = _ratio(*best)
    return list(rows.values())


def _ratio(rate: float | None, reference: float | None) -> float | None:
    return rate / reference if rate and reference else None


@torch.inference_mode()
def _class_maps(segmenter: Segmenter, image: Size, pixels: torch.Tensor) -> list[NDArray[np.uint8]]:
    """What is timed: normalised pixels (N, 3, h, w) to class maps, both on the CPU."""
    (network,) = segmenter.networks
    logits = network(pixels.to(segmenter.device))
    return [class_map(one, (pixels.shape[2], pixels.shape[3]), image) for one in logits]


def rates_by_batch(
    predict: Callable[[torch.Tensor], Any], pixels: torch.Tensor, compiled: bool, largest: int
) -> tuple[dict[int, float], str]:
    """Images/s of batches 1, 2, 4, ... until they stop rising, and why there is no larger one.

    Args:
        predict: what is timed, with a batch.
        pixels: (1, 3, h, w), repeated in each batch.
        compiled: whether ``predict`` compiles for each batch.
        largest: the largest batch.
    """
    rates: dict[int, float] = {}
    allowed_mib, grown_mib, best = available_mib() * _MEMORY_SHARE, 0.0, 0.0
    for batch in (2**power for power in range(largest.bit_length())):
        # On a CPU the system would swap or end the process: the last batch tells in advance.
        if 2 * grown_mib > allowed_mib:
            return rates, measuring.OUT_OF_MEMORY
        if compiled:
            torch.compiler.reset()
        call = partial(predict, pixels.expand(batch, -1, -1, -1).contiguous())
        found, failure = attempt(partial(_seconds_and_growth, call), compiled)
        if found is None:
            return rates, str(failure)
        seconds, grown_mib = found
        rates[batch] = batch / seconds
        if rates[batch] <= best * _RISE:
            return rates, SLOWER
        best = rates[batch]
    return rates, LIMIT


def _seconds_and_growth(call: Callable[[], Any]) -> tuple[float, float]:
    """The median of runs of about two seconds, and the MiB that a run takes of a CPU's memory."""
    call()
    grown_mib = growth_mib(call)
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=2.0).median, grown_mib


def _table(
    rows: Sequence[InferenceRow], options: InferenceOptions, machine: Mapping[str, Any]
) -> Layout:
    variants = dict.fromkeys(row.variant for row in rows)
    notes = ["; ".join(f"{name}: {VARIANTS[name].text}" for name in variants)]
    left_out: list[str] = []
    if options.frame_rate:
        notes.append(
            f"images/s: batch 1, the median of {options.images} images after {options.warm_up}, "
            f"{in_a_row(options.images)} of each variant in turn; from normalised pixels to the "
            "class map in the CPU's memory"
        )
    else:
        left_out += ["images_per_second", "ratio_to_sdpa"]
    if options.best_batch:
        notes.append("best: batches 1, 2, 4, ... until images/s stop rising or memory ends")
    else:
        left_out += [one.name for one in fields(InferenceRow) if one.name.startswith("best_")]
    notes.append(f"network input: {options.protocol.text}. {measuring.RANDOM_WEIGHTS}")
    width, height = options.image[::-1]
    caption = f"Prediction of {width}x{height} images on {machine['device']}"
    return measuring.table(caption, InferenceRow, rows, notes, machine, left_out)
