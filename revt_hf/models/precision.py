"""Autocast: what it rounds, and what it must not."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def bf16_autocast(device: torch.device, enabled: bool = True) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 on a device, where there is one (not on ``meta``)."""
    if not (enabled and torch.amp.is_autocast_available(device.type)):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def full_precision(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off on the tensor's device, where there is one (not on ``meta``)."""
    kind = tensor.device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if available else nullcontext()
