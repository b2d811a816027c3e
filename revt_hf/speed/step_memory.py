"""``python -m revt_hf.speed.step_memory``: a training step's peak memory, in this process.

Reads an order (JSON) from standard input and writes a number of MiB; see ``training.py``.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.core.resources import can_reset_peak, growth_mib, release_free_memory
from revt_hf.evaluation.peak_memory import tiny_network
from revt_hf.speed.networks import patch_labels, smooth_pixels
from revt_hf.speed.steps import StepKind, TrainingStep

_MIB = 2**20


def measure(order: dict[str, Any]) -> float:
    """How much resident memory a network, its optimizer and a training step take, in MiB.

    Two steps are done: the optimizer has its state from the first one on. What compiling takes
    does not count, where the system lets peaks be forgotten.

    Args:
        order: ``config`` of the network, ``kind`` (the fields of :class:`StepKind`), ``crop``
            (height, width), ``batch`` (crops) and ``threads``.
    """
    torch.set_num_threads(order["threads"])
    kind = StepKind(**order["kind"])
    _start_libraries(kind)
    shape = (order["batch"], *order["crop"])
    batch = smooth_pixels(*shape), patch_labels(*shape)
    steps: list[TrainingStep] = []

    def start() -> None:
        model = SegformerForSemanticSegmentation(SegformerConfig.from_dict(order["config"]))
        steps.append(TrainingStep(model, kind, *batch))
        for _ in range(2):
            steps[0]()

    # What was freed before but is still resident would take the step without a rise.
    release_free_memory()
    if not (kind.settings.compile and can_reset_peak()):
        return growth_mib(start)
    start()
    release_free_memory()
    return steps[0].held_bytes() / _MIB + growth_mib(steps[0])


def _start_libraries(kind: StepKind) -> None:
    """A step of a tiny network: threads and buffers that belong to no network."""
    uncompiled = replace(kind, fields={**kind.fields, "compile": False})
    TrainingStep(tiny_network(), uncompiled, smooth_pixels(2, 64, 64), patch_labels(2, 64, 64))()


if __name__ == "__main__":
    print(measure(json.load(sys.stdin)))
