"""What fields of a training recipe give: steps/s and memory of one way after the other.

A step is what the training loop does for a batch that is on the device already, without
Accelerate: forward, loss, backward, AdamW. What loading gives is measured in ``loaders.py``.
"""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import SegformerForSemanticSegmentation

from revt_hf.core.resources import measured_in_own_process
from revt_hf.evaluation.class_maps import Size
from revt_hf.speed.attempts import attempted
from revt_hf.speed.networks import patch_labels, smooth_pixels
from revt_hf.speed.steps import STEPS, StepKind, TrainingStep, adamw, shared_copy
from revt_hf.speed.timing import interleaved

_MIB = 2**20


@dataclass(frozen=True)
class TrainingOptions:
    """What is measured.

    Attributes:
        crop: (height, width) of a crop.
        batch: crops in a step.
        steps: timed of each way.
        warm_up: steps before them.
    """

    crop: Size = (512, 512)
    batch: int = 2
    steps: int = 50
    warm_up: int = 3


@dataclass
class StepRow:
    """One way of training one network.

    Attributes:
        model: its size, folder or Hub id.
        step: the name of the way.
        kind: the way.
        steps_per_second: of the median step.
        images_per_second: crops in it.
        ratio: its steps/s by the model's first row's.
        peak_mib: parameters, gradients, the optimizer's state and working memory.
        steps: how many were timed.
        failure: why it does not run.
    """

    model: str
    step: str
    kind: StepKind = field(default_factory=StepKind)
    steps_per_second: float | None = None
    images_per_second: float | None = None
    ratio: float | None = None
    peak_mib: float | None = None
    steps: int = 0
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)


def measure_steps(
    name: str,
    model: SegformerForSemanticSegmentation,
    options: TrainingOptions,
    device: torch.device,
    progress: Any,
    kinds: Mapping[str, StepKind] = STEPS,
) -> list[StepRow]:
    """A row for each way of doing a training step; they are timed in turn.

    Args:
        name: of the model.
        model: trained on from here on, and moved to the device.
        options: what is measured.
        device: where.
        progress: a tqdm bar that is updated by 1 with every timed step.
        kinds: the ways; the first one is what the others are compared with.
    """
    torch.compiler.reset()
    model.to(device)
    pixels, labels = (
        make(options.batch, *options.crop).to(device) for make in (smooth_pixels, patch_labels)
    )
    rows = {step: StepRow(name, step, kind) for step, kind in kinds.items()}
    # Ways share parameters, and those of one kind of AdamW its state: many fit into memory.
    optimizers = {kind.adamw: adamw(model, kind.adamw) for kind in kinds.values()}

    def started(kind: StepKind) -> TrainingStep:
        optimizer = optimizers[kind.adamw]
        step = TrainingStep(shared_copy(model), kind, pixels, labels, optimizer)
        for _ in range(max(1, options.warm_up)):
            step()
        return step

    running: dict[str, TrainingStep] = {}
    for way, kind in kinds.items():
        progress.set_postfix_str(f"{name}: {way}")
        attempt = attempted(partial(started, kind), kind.settings.compile)
        rows[way].failure = attempt.failure
        if attempt.value is None:
            model.zero_grad()
            continue
        running[way] = attempt.value
    timed = interleaved(running, device, options.steps, progress.update)
    for way, seconds in timed.items():
        row = rows[way]
        row.steps = len(seconds)
        row.steps_per_second = 1 / statistics.median(seconds)
        row.images_per_second = options.batch * row.steps_per_second
    first = next(iter(rows.values())).steps_per_second
    for way, step in running.items():
        row = rows[way]
        row.ratio = row.steps_per_second / first if row.steps_per_second and first else None
        progress.set_postfix_str(f"{name}: memory of {way}")
        measure = partial(_peak_mib, step, kinds[way], options, device)
        row.peak_mib = attempted(measure, compiled=False).value
    return list(rows.values())


def _peak_mib(
    step: TrainingStep, kind: StepKind, options: TrainingOptions, device: torch.device
) -> float:
    if device.type == "cuda":
        others = torch.cuda.memory_allocated(device) - step.held_bytes()
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - others) / _MIB
    order = {
        "config": step.model.config.to_dict(),
        "kind": kind.to_json(),
        "crop": options.crop,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
    }
    return measured_in_own_process("revt_hf.speed.step_memory", order)
