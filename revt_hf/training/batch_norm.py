"""The decode head's BatchNorm while training; the encoder has none."""

from typing import Literal

import torch
from accelerate.utils import broadcast
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Statistics = Literal["process", "all processes", "frozen"]


def statistics(batch_norm: Literal["live", "frozen"], device: str, processes: int) -> Statistics:
    """Whose statistics BatchNorm normalises with.

    Args:
        batch_norm: the recipe's ``model.batch_norm``.
        device: the type of the device, such as ``cuda``.
        processes: how many processes train together.

    Returns:
        ``frozen``: the running ones. ``all processes``: of the batches of all of them together,
        by SyncBatchNorm, which exists on CUDA only. ``process``: of each process's own batch.
    """
    if batch_norm == "frozen":
        return "frozen"
    return "all processes" if device == "cuda" and processes > 1 else "process"


def apply_statistics(model: nn.Module, kind: Statistics) -> None:
    """Replace BatchNorm by SyncBatchNorm where ``kind`` asks for it; parameters stay the same."""
    if kind == "all processes":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def training_mode(model: nn.Module, kind: Statistics) -> None:
    """``model.train()``, but frozen BatchNorm neither uses nor updates batch statistics.

    Its weight and bias go on learning (as with mmsegmentation's ``norm_eval``).
    """
    model.train()
    if kind == "frozen":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


@torch.no_grad()
def share_running_statistics(model: nn.Module) -> None:
    """Give every process the main one's running statistics, which are those that are saved."""
    broadcast(list(model.buffers()))
