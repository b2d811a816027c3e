"""Exponential moving average of the weights."""

from typing import Any

import torch
from torch import nn


class MovingAverage:
    """Keeps ``decay * average + (1 - decay) * weights`` in float32; buffers are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._average = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the present weights in."""
        learned = {name for name, _ in model.named_parameters()}
        for name, tensor in model.state_dict().items():
            if name in learned:
                average = self._average[name]
                average.lerp_(tensor.to(average.dtype), 1 - self._decay)
            else:
                self._average[name].copy_(tensor)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights, named as the model's."""
        return self._average

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved average."""
        for name, tensor in state.items():
            self._average[name].copy_(tensor)
