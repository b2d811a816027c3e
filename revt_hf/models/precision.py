"""Autocast to bfloat16, and code that must not be autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def bf16_autocast(device: torch.device, enabled: bool = True) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 where the device supports it (``meta`` does not)."""
    if not (enabled and torch.amp.is_autocast_available(device.type)):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def full_precision(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off on the tensor's device."""
    kind = tensor.device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if available else nullcontext()
