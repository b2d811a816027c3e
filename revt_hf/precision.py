"""Parts of a computation that autocast must not round."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def full_precision(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off on the tensor's device, where there is one (not on ``meta``)."""
    kind = tensor.device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if available else nullcontext()
