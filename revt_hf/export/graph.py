"""A network as an ONNX graph: normalisation before it, resizes and arg max behind it."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from revt_hf.checkpoints.built import one_line
from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.core.errors import UserError
from revt_hf.data.normalisation import Normalisation
from revt_hf.models.folded_head import fix_
from revt_hf.models.networks import family_of_model, logits_of
from revt_hf.models.onnx_file import IMAGE_SIZE, KEY, GraphRecord

# Resize as torch computes it, and what TensorRT and OpenVINO read.
_OPSET = 18
# An example's sides where a graph takes any: unequal, so that no dimension is taken for another.
_EXAMPLE = (96, 160)
_LARGEST_FILE = 2**31 - 2**20


class Graph(nn.Module):
    """What is exported, by a record: from the input's images to logits or class maps."""

    def __init__(self, model: PreTrainedModel, record: GraphRecord) -> None:
        super().__init__()
        self.record = record
        self.network: Any = copy.deepcopy(model).eval().requires_grad_(False)
        if family_of_model(model) is SEGFORMER:
            fix_(self.network)
        _without_branches(self.network)
        self.dtype = torch.float16 if record.precision == "fp16" else torch.float32
        nn.Module.to(self.network, self.dtype)
        normalisation: Normalisation = record.normalisation
        self.register_buffer("mean", torch.tensor(normalisation.mean))
        self.register_buffer("std", torch.tensor(normalisation.std))
        self.flips = normalisation.do_flip_channel_order

    def forward(self, image: torch.Tensor, image_size: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (N, classes, h, w), float32, or class maps (N, H, W), uint8.

        ``image`` is (N, H, W, 3), uint8, or normalised pixels (N, 3, H, W); ``image_size`` (2,),
        int64, the height and width of class maps.
        """
        pixels = self._normalised(image) if self.record.input == "uint8" else image
        logits = logits_of(self.network, pixels.to(self.dtype)).float()
        if self.record.output == "logits":
            return logits
        for size in (tuple(pixels.shape[2:]), self._image_size(image_size)):
            # Whether sizes are equal is not known of a graph that takes any.
            if self.record.size is None or size != tuple(logits.shape[2:]):
                logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits.argmax(1).to(torch.uint8)

    def _normalised(self, image: torch.Tensor) -> torch.Tensor:
        """As :func:`revt_hf.evaluation.predictor.prepare` does."""
        pixels = (image.float() - self.get_buffer("mean")) / self.get_buffer("std")
        return (pixels.flip(-1) if self.flips else pixels).permute(0, 3, 1, 2)

    def _image_size(self, image_size: torch.Tensor | None) -> tuple[int, int]:
        if self.record.image_size is not None:
            width, height = self.record.image_size
        else:
            assert image_size is not None  # noqa: S101
            height, width = image_size.tolist()
            torch._check(height > 0)
            torch._check(width > 0)
        return height, width


def _without_branches(network: Any) -> None:
    """Take the values that EoMT asks for in Python out of its tensors: 0 in a trained network."""
    masks = getattr(network, "attn_mask_probs", None)
    if isinstance(masks, torch.Tensor):
        del network._buffers["attn_mask_probs"]
        network.attn_mask_probs = masks.tolist()


def write_graph(model: PreTrainedModel, record: GraphRecord, file: Path, label: str) -> None:
    """Write a network, in float32, on the CPU, as an ONNX file with its record.

    Raises:
        UserError: torch cannot export it, or it does not fit a file.
    """
    graph = Graph(model, record)
    held = sum(one.nbytes for one in graph.state_dict().values())
    if held > _LARGEST_FILE:
        raise UserError(f"{label}: its weights have {held:,} bytes, and an ONNX file 2 GB at most")
    arguments, dynamic = _example(record)
    family = family_of_model(model)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                graph,
                arguments,
                dynamo=True,
                opset_version=_OPSET,
                input_names=[record.input_name, *([IMAGE_SIZE] if len(arguments) > 1 else [])],
                output_names=[record.output],
                dynamic_shapes=dynamic,
                verbose=False,
            )
            assert program is not None  # noqa: S101
            program.model.metadata_props[KEY] = record.model_dump_json()
            program.save(str(file))
    except Exception as error:
        # The exporter's own error names its steps, and its cause the reason.
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        reason = one_line(cause).partition(". ")[0]
        raise UserError(f"{label}: torch cannot export this {family.title}: {reason}") from error


def _example(record: GraphRecord) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Inputs of a graph, and which of their dimensions may differ."""
    dynamic = record.size is None
    height, width = _EXAMPLE if record.size is None else record.size[::-1]
    batch = 2 if dynamic else 1
    if record.input == "uint8":
        image, sides = torch.zeros(batch, height, width, 3, dtype=torch.uint8), (0, 1, 2)
    else:
        image, sides = torch.zeros(batch, 3, height, width), (0, 2, 3)
    arguments = [image]
    shapes: list[Any] = [dict.fromkeys(sides, torch.export.Dim.DYNAMIC)]
    if record.asks_for_size:
        arguments.append(torch.tensor([height, width]))
        shapes.append(None)
    return tuple(arguments), tuple(shapes) if dynamic else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's reports off the terminal: its errors are raised."""
    names = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir", "torch._dynamo")
    loggers = [logging.getLogger(name) for name in names]
    before = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stderr(io.StringIO()):
                yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)
