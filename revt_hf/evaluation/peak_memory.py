"""``python -m revt_hf.evaluation.peak_memory``: a prediction's peak memory, in this process.

Reads an order (JSON) from standard input and writes a number of MiB; see ``cost.py``.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import SegformerConfig

from revt_hf.evaluation.blueprint import with_zeros, without_weights
from revt_hf.evaluation.inference import Protocol
from revt_hf.labels import NUM_CLASSES

_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")


def measure(order: dict[str, Any]) -> float:
    """How much resident memory weights and one prediction take, in MiB.

    Weights and picture are zeros: memory does not depend on them.

    Args:
        order: ``blueprint`` (:func:`blueprint_of`), ``size`` (height, width), ``protocol`` (the
            fields of :class:`Protocol`) and ``threads``.
    """
    torch.set_num_threads(order["threads"])
    _start_libraries()
    segmenter = without_weights(order["blueprint"])
    image = np.zeros((*order["size"], 3), dtype=np.uint8)
    if _RESET_PEAK.exists():
        _RESET_PEAK.write_text("5")
    before = _peak_mib()
    with_zeros(segmenter).class_map(image, Protocol(**order["protocol"]))
    return _peak_mib() - before


def _start_libraries() -> None:
    """A prediction of a tiny model: threads and buffers that belong to no model."""
    config = SegformerConfig(
        num_labels=NUM_CLASSES, depths=[1] * 4, hidden_sizes=[8, 16, 40, 64], decoder_hidden_size=8
    )
    blueprint = {"configs": [config.to_dict()], "folded": [False], "combine": None, "head": None}
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    with_zeros(without_weights(blueprint)).class_map(image, Protocol(None))


def _peak_mib() -> float:
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) / 1024
    # Of macOS, in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    print(measure(json.load(sys.stdin)))
