"""AdamW groups and learning-rate schedule of the paper's training protocol."""

from typing import Any

import torch
from torch import nn

from revt_hf.checkpoints.names import HEAD_PREFIX
from revt_hf.config.recipe import Optimizer, Schedule


def parameter_groups(model: nn.Module, spec: Optimizer) -> list[dict[str, Any]]:
    """Four groups: encoder or decode head, with weight decay or without.

    The decode head's learning rate is ``head_lr_factor`` times the base. LayerNorm parameters do
    not decay; everything else does, including biases and the head's BatchNorm, like the paper's
    ``custom_keys`` (``head``: lr_mult 10, ``norm``: decay_mult 0). Each group keeps its initial
    learning rate as ``base_lr``.
    """
    undecayed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = (name.startswith(HEAD_PREFIX), id(parameter) not in undecayed)
        groups.setdefault(key, []).append(parameter)
    result = []
    for (in_head, decays), parameters in sorted(groups.items()):
        base_lr = spec.lr * (spec.head_lr_factor if in_head else 1.0)
        result.append(
            {
                "params": parameters,
                "lr": base_lr,
                "base_lr": base_lr,
                "weight_decay": spec.weight_decay if decays else 0.0,
            }
        )
    return result


def build_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.AdamW:
    """Fused AdamW over :func:`parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(model, spec), betas=spec.betas, fused=True)


def learning_rate(base_lr: float, step: int, steps: int, spec: Schedule) -> float:
    """The learning rate of optimizer step ``step`` (from 0) of ``steps``.

    Poly decay ``(base - min) * (1 - step / steps) ** power + min``, multiplied by a linear
    warm-up from ``warmup_ratio`` to 1 over ``warmup_steps`` (mmcv's ``PolyLrUpdaterHook`` with
    ``warmup='linear'``).
    """
    decayed = (base_lr - spec.min_lr) * (1 - step / steps) ** spec.power + spec.min_lr
    if step >= spec.warmup_steps:
        return decayed
    return decayed * (1 - (1 - step / spec.warmup_steps) * (1 - spec.warmup_ratio))


def set_learning_rate(optimizer: Any, step: int, steps: int, spec: Schedule) -> None:
    """Set every group's learning rate for ``step``; see :func:`learning_rate`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["base_lr"], step, steps, spec)
