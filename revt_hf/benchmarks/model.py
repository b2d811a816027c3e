"""Rows of the network: forward passes and training steps against transformers' own."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from transformers import SegformerForSemanticSegmentation

from revt_hf.benchmarks.runner import Pair, row
from revt_hf.folded_head import fold_
from revt_hf.labels import IGNORE_INDEX, NUM_CLASSES
from revt_hf.modeling import build_model, for_inference_
from revt_hf.recipe import Model, Optimizer
from revt_hf.training.loss import segmentation_loss
from revt_hf.training.optim import build_optimizer

_PICTURE = (512, 1024)
_CROP, _BATCH = 512, 2
# Rows of a strip: the time is the same from 8 to 64.
LOSS_ROWS = 16


def _network(size: str) -> SegformerForSemanticSegmentation:
    """Random weights, BatchNorm statistics of a picture, logits as wide as after training."""
    model = build_model(Model.model_validate({"size": size, "drop_path": 0}), seed=0)
    with torch.no_grad():
        model.decode_head.batch_norm.momentum = 1.0
        spread = model.train()(pixel_values=_pixels(2, 128, 256)).logits.std()
        model.decode_head.classifier.weight.mul_(2 / spread)
    return model.eval()


def _pixels(batch: int, height: int, width: int) -> torch.Tensor:
    """Smooth patches, (N, 3, H, W), as wide as normalised pictures."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(batch, 3, height // 32, width // 32, generator=generator)
    return functional.interpolate(patches, size=(height, width), mode="bicubic")


def _forward_difference(peer: torch.Tensor, ours: torch.Tensor) -> float:
    if (peer.argmax(1) != ours.argmax(1)).any():
        return float("inf")
    return float((peer - ours).abs().max())


def _forward(size: str, change: Callable[[Any], Any]) -> Pair:
    ordinary = _network(size)
    ours = change(copy.deepcopy(ordinary))
    pixels = _pixels(1, *_PICTURE)

    @torch.inference_mode()
    def logits(model: SegformerForSemanticSegmentation) -> torch.Tensor:
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


def _labels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, NUM_CLASSES, (_BATCH, _CROP // 32, _CROP // 32), generator=generator)
    coarse[:, 0] = IGNORE_INDEX
    return coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)


def _training_step(
    head: bool = False, rows: int | None = None, bf16: bool = False, compiled: bool = False
) -> Pair:
    """A step of B0 with each side's own copy of the network; what is compared is the loss."""
    pixels, labels = _pixels(_BATCH, _CROP, _CROP), _labels()
    peer = build_model(Model(size="b0"), seed=0).train()
    ours = copy.deepcopy(peer)
    if head:
        fold_(ours)
    if compiled:
        ours.compile()

    def peer_loss() -> torch.Tensor:
        loss: torch.Tensor = peer(pixel_values=pixels, labels=labels).loss
        return loss

    def our_loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = ours(pixel_values=pixels).logits
        return segmentation_loss(logits, labels, "valid", rows=rows)

    return Pair(
        _stepping(peer, peer_loss),
        _stepping(ours, our_loss),
        lambda theirs, ours: abs(ours / theirs - 1),
    )


def _stepping(
    model: SegformerForSemanticSegmentation, loss_of: Callable[[], torch.Tensor]
) -> Callable[[], float]:
    optimizer = build_optimizer(model, Optimizer())

    def step() -> float:
        # Both sides drop the same values and paths.
        torch.manual_seed(0)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def _training_row(name: str, goal: float, tolerance: float = 1e-5, **settings: Any) -> None:
    row(
        f"training-step{name}",
        peer="transformers' labels= step, B0, two 512 crops",
        goal=goal,
        tolerance=tolerance,
        repeats=15,
        seconds=90.0,
        memory=True,
    )(partial(_training_step, **settings))


_BOTH = {"head": True, "rows": LOSS_ROWS}
_training_row("", 1.4, **_BOTH)
_training_row("-folded-head", 1.2, head=True)
_training_row("-loss-rows", 1.05, rows=LOSS_ROWS)
_training_row("-bf16", 1.4, tolerance=1e-2, bf16=True, **_BOTH)
# A compiled network draws other values to drop.
_training_row("-compiled", 1.4, tolerance=1e-1, compiled=True, **_BOTH)


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
    labels = _labels()

    def gradient(rows: int | None) -> torch.Tensor:
        leaf = logits.clone().requires_grad_()
        (result,) = torch.autograd.grad(segmentation_loss(leaf, labels, "valid", rows=rows), leaf)
        return result

    return Pair(
        partial(gradient, None),
        partial(gradient, LOSS_ROWS),
        lambda peer, ours: float((peer - ours).abs().max() / peer.abs().max()),
    )
