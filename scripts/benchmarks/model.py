"""Rows of the network: forward passes and training steps against transformers' own."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.runner import Pair, row
from revt_hf.config.network import Model
from revt_hf.data.label_space import NUM_CLASSES
from revt_hf.models.folded_head import fold_
from revt_hf.models.load import build_model, for_inference_
from revt_hf.speed.measuring import patch_labels, random_network, smooth_pixels
from revt_hf.speed.training import FIRST, LOSS_ROWS, STEPS, TrainingStep
from revt_hf.training.loss import segmentation_loss

_IMAGE = (512, 1024)
_CROP, _BATCH = 512, 2


def _forward_difference(peer: torch.Tensor, ours: torch.Tensor) -> float:
    if (peer.argmax(1) != ours.argmax(1)).any():
        return float("inf")
    return float((peer - ours).abs().max())


def _forward(size: str, change: Callable[[Any], Any]) -> Pair:
    ordinary = random_network(size)
    ours = change(copy.deepcopy(ordinary))
    pixels = smooth_pixels(1, *_IMAGE)

    @torch.inference_mode()
    def logits(model: PreTrainedModel) -> torch.Tensor:
        result: torch.Tensor = model(pixel_values=pixels).logits
        return result

    return Pair(partial(logits, ordinary), partial(logits, ours), _forward_difference)


# Random weights, so logits of the whole network differ by more than those of the head alone.
for _size, _goals in {"b0": (2.0, 2.5), "b2": (2.5, 2.5), "b5": (1.5, 1.5)}.items():
    _changes = {"folded-head": fold_, "inference": for_inference_}
    for (_name, _change), _goal in zip(_changes.items(), _goals, strict=True):
        row(
            f"{_name}-{_size}",
            peer="transformers' default forward, 512x1024, float32",
            goal=_goal,
            tolerance=2e-5,
            repeats=9,
            seconds=90.0,
            memory=True,
        )(partial(_forward, _size, _change))


def _training_step(kind: str) -> Pair:
    """A step of B0 with each side's own copy of the network; what is compared is the loss."""
    batch = smooth_pixels(_BATCH, _CROP, _CROP), patch_labels(_BATCH, _CROP, _CROP)
    peer = build_model(Model(size="b0"), seed=0)
    ours = copy.deepcopy(peer)
    return Pair(
        TrainingStep(peer, STEPS[FIRST], *batch),
        TrainingStep(ours, STEPS[kind], *batch),
        lambda theirs, ours: abs(ours / theirs - 1),
    )


def _training_row(name: str, kind: str, goal: float, tolerance: float = 1e-5) -> None:
    row(
        f"training-step{name}",
        peer="transformers' labels= step, B0, two 512 crops",
        goal=goal,
        tolerance=tolerance,
        repeats=15,
        seconds=90.0,
        memory=True,
    )(partial(_training_step, kind))


_training_row("", "folded_head, loss_rows", 1.4)
_training_row("-folded-head", "folded_head", 1.2)
_training_row("-loss-rows", "loss_rows", 1.05)
_training_row("-bf16", "folded_head, loss_rows, bf16", 1.4, tolerance=1e-2)
# A compiled network draws other values to drop.
_training_row("-compiled", "folded_head, loss_rows, compile", 1.4, tolerance=1e-1)


@row(
    "loss-rows",
    peer="interpolate + cross_entropy, with gradient",
    goal=1.5,
    memory=True,
    tolerance=1e-5,
)
def loss_in_strips() -> Pair:
    """Logits of two 512 crops; the difference is the gradient's, relative to its largest value."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(_BATCH, NUM_CLASSES, _CROP // 4, _CROP // 4, generator=generator)
    labels = patch_labels(_BATCH, _CROP, _CROP)

    def gradient(rows: int | None) -> torch.Tensor:
        leaf = logits.clone().requires_grad_()
        (result,) = torch.autograd.grad(segmentation_loss(leaf, labels, "valid", rows=rows), leaf)
        return result

    return Pair(
        partial(gradient, None),
        partial(gradient, LOSS_ROWS),
        lambda peer, ours: float((peer - ours).abs().max() / peer.abs().max()),
    )
