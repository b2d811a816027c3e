"""Rows of exported graphs: onnxruntime on the CPU against PyTorch, from image to class map."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.runner import Pair, row
from revt_hf.config.protocol import Protocol
from revt_hf.evaluation.predictor import model_segmenter
from revt_hf.export.onnx_export import ExportOptions, export_onnx
from revt_hf.models.load import load_model
from revt_hf.models.onnx_file import OnnxNetwork
from revt_hf.speed.inference import VARIANTS
from revt_hf.speed.measuring import random_network, smooth_image

_SIZE = (1024, 512)
_CPU = torch.device("cpu")
_VARIANTS = {
    "eager": ("transformers with attn_implementation='eager'", 2.0),
    "sdpa": ("transformers' default", 1.5),
    "folded": ("ours in PyTorch, as evaluation and prediction run", 0.9),
}


def _differing(peer: NDArray[np.uint8], ours: NDArray[np.uint8]) -> float:
    return float((peer != ours).mean())


def _pair(variant: str) -> Pair:
    """B0 with random weights, as an image's class map is made of it; the share of other classes."""
    protocol, image = Protocol(max_size=None), smooth_image(*_SIZE[::-1])
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name) / "b0", Path(name) / "b0.onnx"
        random_network("b0").save_pretrained(folder)
        export_onnx(folder, file, ExportOptions(size=_SIZE, images=1))
        graph = model_segmenter(OnnxNetwork(file, _CPU))  # type: ignore[arg-type]
        peer = VARIANTS[variant].segmenter(load_model(folder), _CPU)
    return Pair(
        partial(peer.class_map, image, protocol),
        partial(graph.class_map, image, protocol),
        _differing,
    )


for _variant, (_text, _goal) in _VARIANTS.items():
    row(
        f"onnxruntime-b0-{_variant}",
        peer=f"{_text}, 512x1024 image to class map",
        goal=_goal,
        tolerance=1e-4,
        repeats=15,
        seconds=90.0,
    )(partial(_pair, _variant))
