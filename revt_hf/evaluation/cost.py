"""What a prediction costs (an ensemble: all that it runs), and on which machine and libraries."""

import copy
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from revt_hf import __version__
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.class_maps import Size
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.predictor import Segmenter, model_segmenter, network_sizes, sliding_logits
from revt_hf.evaluation.result import Cost
from revt_hf.models.onnx_file import OnnxNetwork

_LIBRARIES: tuple[str, ...] = ("torch", "transformers", "datasets", "accelerate", "evaluate")
_LIBRARIES += ("albumentations", "opencv-python-headless", "opencv-python", "numpy")
_MIN_RUNS, _MAX_RUNS, _SECONDS = 3, 50, 2.0
_MIB = 2**20


def check_countable(segmenters: Mapping[str, Segmenter]) -> None:
    """Refuse graphs in ONNX files, whose parameters and operations cannot be counted here."""
    for name, segmenter in segmenters.items():
        if any(isinstance(model, OnnxNetwork) for model in segmenter.models):
            raise UserError(
                f"{name} is an exported graph, and --cost counts parameters and FLOPs of networks: "
                "revt benchmark measures its images/s"
            )


def cost_of(segmenter: Segmenter, size: Size, protocol: Protocol) -> Cost:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Cost(
        parameters=parameters_of(segmenter),
        flops=flops_of(segmenter, size, protocol),
        images_per_second=_images_per_second(segmenter, image, protocol),
        peak_mib=peak_mib(segmenter, size, protocol),
        image_size=size,
        device=device_name(segmenter.device),
    )


def parameters_of(segmenter: Segmenter) -> int:
    return sum(one.numel() for module in segmenter.modules for one in module.parameters())


def flops_of(segmenter: Segmenter, size: Size, protocol: Protocol) -> int:
    """Floating-point operations of one image of a (height, width)."""
    shapes_only, counter = _without_weights(segmenter), FlopCounterMode(display=False)
    # Other attention kernels hide their products from the counter on some devices.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        for network_size in network_sizes(size, protocol):
            pixels = torch.empty((1, 3, *network_size), device="meta")
            for network in shapes_only.networks:
                sliding_logits(network, pixels, protocol)
    views_a_scale = protocol.views // len(protocol.scales)
    return int(counter.get_total_flops()) * views_a_scale


def _images_per_second(segmenter: Segmenter, image: NDArray[np.uint8], protocol: Protocol) -> float:
    segmenter.class_map(image, protocol)
    times: list[float] = []
    while len(times) < _MIN_RUNS or (sum(times) < _SECONDS and len(times) < _MAX_RUNS):
        since = time.perf_counter()
        # A class map lies in the CPU's memory: the GPU has finished.
        segmenter.class_map(image, protocol)
        times.append(time.perf_counter() - since)
    return 1 / statistics.median(times)


def _without_weights(segmenter: Segmenter) -> Segmenter:
    """The same segmenter on the meta device, which computes nothing; not compiled."""
    models = []
    for model in segmenter.models:
        weights: dict[int, Any] = {id(one): one.to("meta") for one in model.buffers()}
        for one in model.parameters():
            weights[id(one)] = torch.nn.Parameter(one.detach().to("meta"), requires_grad=False)
        models.append(copy.deepcopy(model, weights))
    if segmenter.combine is None:
        return model_segmenter(models[0], segmenter.bf16)
    return ensemble_segmenter(models, segmenter.combine, segmenter.head or 1)


def peak_mib(segmenter: Segmenter, size: Size, protocol: Protocol, images: int = 1) -> float | None:
    """Weights and working memory of a prediction in MiB; None if it does not run on CUDA."""
    blank = [np.zeros((*size, 3), dtype=np.uint8)] * images
    predict = partial(segmenter.class_maps, blank, protocol)
    weights = {
        tensor.data_ptr(): tensor.nbytes
        for module in segmenter.modules
        for tensor in module.state_dict().values()
    }
    return cuda_peak_mib(predict, segmenter.device, sum(weights.values()))


def cuda_peak_mib(work: Callable[[], Any], device: torch.device, held_bytes: int) -> float | None:
    """Peak memory of ``work`` by the CUDA allocator, in MiB; None on other devices."""
    if device.type != "cuda":
        return None
    others = torch.cuda.memory_allocated(device) - held_bytes
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - others) / _MIB


def device_name(device: torch.device) -> str:
    """The GPU's name, or the type of another device and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def library_versions() -> dict[str, str]:
    """Versions of what took part, by name; neither this package nor OpenCV need be installed."""
    found = {"python": platform.python_version(), "revt_hf": __version__}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
