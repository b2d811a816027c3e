"""Loss and speed between two log lines."""

import math
import time

import torch
from accelerate import Accelerator

from revt_hf.core.errors import UserError
from revt_hf.core.processes import failing_together


class Meter:
    """Mean loss and images per second since the last reading, over all processes.

    Args:
        images_per_step: of all processes.
        accelerator: of the run.
    """

    def __init__(self, images_per_step: int, accelerator: Accelerator) -> None:
        self._images = images_per_step
        self._accelerator = accelerator
        self._losses: list[torch.Tensor] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time until now out of the speed."""
        self._since = time.perf_counter()
        self._steps = 0

    def add(self, loss: torch.Tensor) -> None:
        """Take in this process's part of one step's loss; the parts sum to the loss."""
        self._losses.append(loss)
        self._steps += 1

    def read(self, step: int) -> dict[str, float]:
        """The values since the last reading; every process has to ask.

        Raises:
            UserError: the loss is not finite.
        """
        total = self._accelerator.reduce(torch.stack(self._losses).mean(), reduction="sum")
        loss = float(total)
        with failing_together(self._accelerator):
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {step + 1}: lower optimizer.lr or look at the "
                    "labels"
                )
        rate = self._images * self._steps / max(time.perf_counter() - self._since, 1e-9)
        self._losses = []
        self.restart_clock()
        return {"loss": loss, "images_per_second": rate}
