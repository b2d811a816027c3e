"""``python -m revt_hf.evaluation.peak_memory``: a prediction's peak memory, in this process.

Reads an order (JSON) from standard input and writes a number of MiB; see ``cost.py``.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.core.resources import can_reset_peak, growth_mib, release_free_memory
from revt_hf.data.labels import NUM_CLASSES
from revt_hf.evaluation.blueprint import compile_, with_zeros, without_weights
from revt_hf.evaluation.cost import bytes_of
from revt_hf.evaluation.predictor import model_segmenter

_MIB = 2**20


def measure(order: dict[str, Any]) -> float:
    """How much resident memory weights and one prediction take, in MiB.

    Weights and images are zeros: memory does not depend on them. What compiling takes does not
    count, where the system lets peaks be forgotten.

    Args:
        order: ``blueprint`` (:func:`blueprint_of`), ``size`` (height, width), ``images`` that go
            through together, ``protocol`` (the fields of :class:`Protocol`) and ``threads``.
    """
    torch.set_num_threads(order["threads"])
    _start_libraries(order["blueprint"]["bf16"])
    segmenter = without_weights(order["blueprint"])
    images = [np.zeros((*order["size"], 3), dtype=np.uint8)] * order["images"]
    protocol = Protocol(**order["protocol"])
    compiled = compile_(segmenter, order["blueprint"])

    def predict() -> None:
        segmenter.class_maps(images, protocol)

    def start() -> None:
        with_zeros(segmenter)
        predict()

    if not (compiled and can_reset_peak()):
        return growth_mib(start)
    start()
    release_free_memory()
    return bytes_of(segmenter) / _MIB + growth_mib(predict)


def tiny_network() -> SegformerForSemanticSegmentation:
    """A network that takes hardly any memory itself, in eval mode."""
    config = SegformerConfig(
        num_labels=NUM_CLASSES, depths=[1] * 4, hidden_sizes=[8, 16, 40, 64], decoder_hidden_size=8
    )
    return SegformerForSemanticSegmentation(config).eval()


def _start_libraries(bf16: bool) -> None:
    """A prediction of a tiny model: threads and buffers that belong to no model."""
    tiny = model_segmenter(tiny_network(), bf16)
    tiny.class_map(np.zeros((64, 64, 3), dtype=np.uint8), Protocol(max_size=None))


if __name__ == "__main__":
    print(measure(json.load(sys.stdin)))
