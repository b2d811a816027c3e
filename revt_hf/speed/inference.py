"""How fast SegFormers predict: transformers' own variants and ours, at batch 1 and the best batch.

An image's time covers what mmsegmentation's ``tools/benchmark.py`` covers, by which SegFormer's
frame rates were measured: normalised pixels to the device, network, logits to the image's size,
arg max, class map to the CPU. Decoding, resizing and normalising come before.
"""

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.benchmark import Timer

from revt_hf.checkpoints.architecture import SIZES
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.core.resources import available_mib, growth_mib
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.class_maps import Size, class_map
from revt_hf.evaluation.cost import flops_of, parameters_of, peak_mib
from revt_hf.evaluation.loading import too_small
from revt_hf.evaluation.predictor import Segmenter, model_segmenter, network_sizes, prepare
from revt_hf.models.load import for_inference_
from revt_hf.models.onnx_file import OnnxNetwork, is_onnx
from revt_hf.results.layout import TableLayout
from revt_hf.speed import measuring
from revt_hf.speed.measuring import BenchmarkResult, Model, attempt, column, ratio

# How a network in an ONNX file runs.
GRAPH = "onnxruntime"
# The variant that the others are compared with: transformers' default.
REFERENCE = "sdpa"
SLOWER, LIMIT = "not faster", "largest batch"
# A larger batch counts as faster only if it gains more than repeated runs differ by.
_RISE = 1.02
# Of the memory that is free on a CPU; more would make the machine swap.
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Variant:
    """A way of running a SegFormer."""

    text: str
    attention: str = "sdpa"
    for_inference: bool = False
    bf16: bool = False
    compiled: bool = False

    def segmenter(self, model: Model, device: torch.device) -> Segmenter:
        """A copy of a model that runs this way; it is compiled for each input size anew."""
        if isinstance(model, OnnxNetwork):
            return model_segmenter(model)  # It was opened for its device.
        copied = copy.deepcopy(model).eval()
        nn.Module.to(copied, device)
        copied.set_attn_implementation(self.attention)
        if self.for_inference:
            for_inference_(copied)
        if self.compiled:
            copied.compile(dynamic=False)
        return model_segmenter(copied, self.bf16)


_GRAPH = Variant("a file of revt export")
VARIANTS = {
    "eager": Variant("transformers with attn_implementation='eager'", attention="eager"),
    REFERENCE: Variant("transformers' default"),
    "folded": Variant("for_inference_: folded decode head", for_inference=True),
    "bf16": Variant("folded, under bfloat16 autocast", for_inference=True, bf16=True),
    "compiled": Variant("folded, and torch.compile", for_inference=True, compiled=True),
}


@dataclass(frozen=True)
class InferenceOptions:
    """What is measured; ``images`` are timed at batch 1 after ``warm_up`` others."""

    image: Size = (512, 1024)  # height, width
    max_size: tuple[int, int] | None = None  # width, height; None: native
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
    parameters: int | None = column("parameters (M)", 1e-6, 2)
    flops: int | None = column("GFLOPs", 1e-9, 1)  # of one image
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
    """Measure how fast models (folders or Hub IDs, by name) and random ``b0`` to ``b5`` predict.

    Files of ``revt export`` have one variant, ``onnxruntime``. Default: all six sizes, all
    ``VARIANTS``, a GPU if there is one.
    """
    options = options or InferenceOptions()
    where = measuring.chosen_device(device)
    for name in variants:
        if name not in VARIANTS:
            raise UserError(f"--variant {name}: use {', '.join(VARIANTS)}")
    chosen = {name: one for name, one in VARIANTS.items() if not variants or name in variants}
    ((height, width),) = network_sizes(options.image, options.protocol)
    if min(height, width) < measuring.SMALLEST:
        raise UserError(
            f"--image and --max-size make {width}x{height} pixels: the network needs at least "
            f"{measuring.SMALLEST} on each side"
        )
    models = models or {}
    sizes = sizes or ([] if models else list(SIZES))
    graphs = {
        name: _graph(name, path, where, options) for name, path in models.items() if is_onnx(path)
    }
    folders = {name: path for name, path in models.items() if name not in graphs}
    makers = measuring.model_makers(folders, sizes, measuring.random_network)
    machine = measuring.machine_facts(where)
    rows: list[InferenceRow] = []
    total = len(makers) * len(chosen) + len(graphs)
    with measuring.progress_bar(total, "variant", quiet) as progress:
        for name, make in makers.items():
            rows += measure_model(name, make(), chosen, options, where, progress)
        for name, graph in graphs.items():
            rows += measure_model(name, graph, {GRAPH: _GRAPH}, options, where, progress)
    seen = {"image": options.image[::-1], "network_input": options.protocol.text}
    table = _table(rows, options, machine)
    return BenchmarkResult("inference", machine, asdict(options) | seen, rows, [table])


def _graph(name: str, path: str, device: torch.device, options: InferenceOptions) -> Any:
    """A network in an ONNX file that takes the image."""
    graph = OnnxNetwork(path, device)
    if problem := too_small(options.image, options.protocol, graph.limits):
        raise UserError(f"{name}: --image and --max-size: {problem}")
    return graph


def measure_model(
    name: str,
    model: Model,
    variants: Mapping[str, Variant],
    options: InferenceOptions,
    device: torch.device,
    progress: Any,
) -> list[InferenceRow]:
    """A row for each variant of a model; ``progress`` is a tqdm bar."""
    image = measuring.smooth_image(*options.image)
    pixels = prepare(image, options.protocol, 1.0, normalisation_of(model))
    rows: list[InferenceRow] = []
    maps: dict[str, NDArray[np.uint8]] = {}

    def measure(row: InferenceRow, variant: Variant) -> None:
        if not isinstance(model, OnnxNetwork):
            plain = variant.segmenter(model, torch.device("cpu"))
            row.parameters = parameters_of(plain)
            row.flops = flops_of(plain, options.image, options.protocol)
        segmenter, row.failure = attempt(partial(variant.segmenter, model, device))
        if segmenter is None:
            return
        predict = partial(_class_maps, segmenter, options.image)
        found, row.failure = attempt(partial(predict, pixels), variant.compiled)
        if found is None:
            return
        maps[row.variant] = found[0]
        memory = partial(peak_mib, segmenter, options.image, options.protocol)
        row.peak_mib, _ = attempt(partial(memory, 1))
        if options.frame_rate:
            call = partial(predict, pixels)
            seconds = measuring.run_seconds(call, options.warm_up, options.images)
            row.images_per_second = 1 / statistics.median(seconds)
            row.mean_images_per_second = 1 / statistics.fmean(seconds)
        if options.best_batch:
            limits = variant.compiled, options.largest_batch
            row.tried, row.ended_by = rates_by_batch(predict, pixels, *limits)
            if row.tried:
                row.best_batch = max(row.tried, key=row.tried.__getitem__)
                row.best_images_per_second = row.tried[row.best_batch]
                row.best_batch_peak_mib, _ = attempt(partial(memory, row.best_batch))

    for key, variant in variants.items():
        progress.set_postfix_str(f"{name} {key}")
        # Beyond a number of compiled networks torch silently runs further ones uncompiled.
        torch.compiler.reset()
        rows.append(InferenceRow(name, key))
        measure(rows[-1], variant)
        progress.update()
    reference = next((row for row in rows if row.variant == REFERENCE), None)
    if reference is not None and REFERENCE in maps:
        for row in [row for row in rows if row.variant in maps]:
            row.differing = float((maps[row.variant] != maps[REFERENCE]).mean())
            row.ratio_to_sdpa = ratio(row.images_per_second, reference.images_per_second)
            best = ratio(row.best_images_per_second, reference.best_images_per_second)
            row.best_ratio_to_sdpa = best
    return rows


@torch.inference_mode()
def _class_maps(segmenter: Segmenter, image: Size, pixels: torch.Tensor) -> list[NDArray[np.uint8]]:
    """What is timed: normalised pixels (N, 3, h, w) to class maps, both on the CPU."""
    graph = segmenter.models[0]
    if isinstance(graph, OnnxNetwork) and graph.ends_in_classes:
        return [graph.class_map(one[None], image) for one in pixels]
    (network,) = segmenter.networks
    logits = network(pixels.to(segmenter.device))
    return [class_map(one, (pixels.shape[2], pixels.shape[3]), image) for one in logits]


def rates_by_batch(
    predict: Callable[[torch.Tensor], Any], pixels: torch.Tensor, compiled: bool, largest: int
) -> tuple[dict[int, float], str]:
    """Images/s of batches 1, 2, 4, ... until they stop rising, and why there is no larger one."""
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
) -> TableLayout:
    variants = dict.fromkeys(row.variant for row in rows)
    texts = {**VARIANTS, GRAPH: _GRAPH}
    notes = ["; ".join(f"{name}: {texts[name].text}" for name in variants)]
    left_out: list[str] = []
    if options.frame_rate:
        notes.append(
            f"images/s: batch 1, the median of {options.images} images after {options.warm_up}; "
            "from normalised pixels to the class map in the CPU's memory"
        )
    else:
        left_out += ["images_per_second", "ratio_to_sdpa"]
    if options.best_batch:
        notes.append("best: batches 1, 2, 4, ... until images/s stop rising or memory ends")
    else:
        left_out += [one.name for one in fields(InferenceRow) if one.name.startswith("best_")]
    notes.append(f"network input: {options.protocol.text}. {measuring.RANDOM_WEIGHTS}")
    height, width = options.image
    caption = f"Prediction of {width}x{height} images on {machine['device']}"
    return measuring.table(caption, rows, notes, machine, left_out)
