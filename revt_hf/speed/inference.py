"""How fast SegFormers predict: transformers' own variants and ours, at batch 1 and the best batch.

An image's time covers what mmsegmentation's ``tools/benchmark.py`` covers, by which SegFormer's
frame rates were measured: normalised pixels to the device, network, logits to the image's size,
arg max, class map to the CPU. Decoding, resizing and normalising come before.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from revt_hf.speed.measuring import BenchmarkResult, Model, attempt, in_a_row, shown
from revt_hf.speed.networks import SMALLEST, random_network, smooth_image
from revt_hf.speed.variants import REFERENCE, VARIANTS, Variant, chosen_variants

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
class BestBatch:
    """The batch with the most images/s of those that were tried, 0 if none could be measured."""

    batch: int = 0
    images_per_second: float = 0.0
    # Why no larger batch was tried: "not faster", "largest batch" or a failure.
    ended_by: str = LIMIT
    tried: dict[int, float] = field(default_factory=dict)


@dataclass
class InferenceRow:
    """A variant of a model; None is what was not measured."""

    model: str
    variant: str
    parameters: int
    flops: int  # of one image
    peak_mib: float | None = None  # weights and working memory of one image, on a GPU
    differing: float | None = None  # share of pixels with another class than by the reference
    images_per_second: float | None = None  # of the median image
    mean_images_per_second: float | None = None  # as the original computes it
    ratio_to_sdpa: float | None = None
    best_batch: BestBatch | None = None
    best_batch_peak_mib: float | None = None
    best_batch_ratio_to_sdpa: float | None = None
    failure: str | None = None

    @property
    def best_rate(self) -> float | None:
        """Images/s at the best batch."""
        return self.best_batch.images_per_second if self.best_batch else None


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
        best = find_best_batch(predict, pixels, variants[key].compiled, options.largest_batch)
        if best.batch:
            rows[key].best_batch = best
            rows[key].best_batch_peak_mib, _ = attempt(partial(memory[key], best.batch))
    if REFERENCE in maps:
        for key, found in maps.items():
            _compare(rows[key], rows[REFERENCE], float((found != maps[REFERENCE]).mean()))
    return list(rows.values())


@torch.inference_mode()
def _class_maps(segmenter: Segmenter, image: Size, pixels: torch.Tensor) -> list[NDArray[np.uint8]]:
    """What is timed: normalised pixels (N, 3, h, w) to class maps, both on the CPU."""
    (network,) = segmenter.networks
    logits = network(pixels.to(segmenter.device))
    return [class_map(one, (pixels.shape[2], pixels.shape[3]), image) for one in logits]


def _compare(row: InferenceRow, reference: InferenceRow, differing: float) -> None:
    row.differing = differing
    if row.images_per_second and reference.images_per_second:
        row.ratio_to_sdpa = row.images_per_second / reference.images_per_second
    if row.best_rate and reference.best_rate:
        row.best_batch_ratio_to_sdpa = row.best_rate / reference.best_rate


def find_best_batch(
    predict: Callable[[torch.Tensor], Any], pixels: torch.Tensor, compiled: bool, largest: int
) -> BestBatch:
    """Double the batch until images/s stop rising, memory ends or the batch is the largest.

    Args:
        predict: what is timed, with a batch.
        pixels: (1, 3, h, w), repeated in each batch.
        compiled: whether ``predict`` compiles for each batch.
        largest: the largest batch.
    """
    best, batch, grown_mib = BestBatch(), 1, 0.0
    allowed_mib = available_mib() * _MEMORY_SHARE
    while batch <= largest:
        if compiled:
            torch.compiler.reset()
        # On a CPU the system would swap or end the process: the last batch tells in advance.
        if 2 * grown_mib > allowed_mib:
            best.ended_by = measuring.OUT_OF_MEMORY
            break
        call = partial(predict, pixels.expand(batch, -1, -1, -1).contiguous())
        found, failure = attempt(partial(_seconds_and_growth, call), compiled)
        if found is None:
            best.ended_by = str(failure)
            break
        seconds, grown_mib = found
        rate = best.tried[batch] = batch / seconds
        rises = rate > best.images_per_second * _RISE
        if rate > best.images_per_second:
            best.batch, best.images_per_second = batch, rate
        if not rises:
            best.ended_by = SLOWER
            break
        batch *= 2
    return best


def _seconds_and_growth(call: Callable[[], Any]) -> tuple[float, float]:
    """The median of runs of about two seconds, and the MiB that a run takes of a CPU's memory."""
    call()
    grown_mib = growth_mib(call)
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=2.0).median, grown_mib


def _table(
    rows: Sequence[InferenceRow], options: InferenceOptions, machine: Mapping[str, Any]
) -> Layout:
    columns: dict[str, Callable[[InferenceRow], str]] = {
        "model": lambda row: row.model,
        "variant": lambda row: row.variant,
        "parameters (M)": lambda row: shown(row.parameters / 1e6, 2),
        "GFLOPs": lambda row: shown(row.flops / 1e9, 1),
        "peak MiB": lambda row: shown(row.peak_mib, 0),
        "other classes %": lambda row: shown(row.differing and 100 * row.differing, 2),
    }
    variants = dict.fromkeys(row.variant for row in rows)
    notes = ["; ".join(f"{name}: {VARIANTS[name].text}" for name in variants)]
    if options.frame_rate:
        columns["images/s"] = lambda row: shown(row.images_per_second)
        columns[f"x {REFERENCE}"] = lambda row: shown(row.ratio_to_sdpa, 2)
        notes.append(
            f"images/s: batch 1, the median of {options.images} images after {options.warm_up}, "
            f"{in_a_row(options.images)} of each variant in turn; from normalised pixels to the "
            "class map in the CPU's memory"
        )
    if options.best_batch:
        columns["best images/s"] = lambda row: shown(row.best_rate)
        columns[f"best x {REFERENCE}"] = lambda row: shown(row.best_batch_ratio_to_sdpa, 2)
        columns["batch"] = lambda row: shown(row.best_batch.batch if row.best_batch else None, 0)
        columns["its peak MiB"] = lambda row: shown(row.best_batch_peak_mib, 0)
        notes.append("best: batches 1, 2, 4, ... until images/s stop rising or memory ends")
    notes.append(f"network input: {options.protocol.text}. {measuring.RANDOM_WEIGHTS}")
    width, height = options.image[::-1]
    caption = f"Prediction of {width}x{height} images on {machine['device']}"
    return measuring.table(caption, columns, rows, notes, machine)
