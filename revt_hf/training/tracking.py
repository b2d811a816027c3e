"""The numbers of a run: ``metrics.jsonl``, trackers of Accelerate, and the meter they come from.

Nothing here imports torch before it is needed: experiments watch their trainings' metrics.
"""

import importlib.util
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.outputs import write_text
from revt_hf.models.recorded import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

TRACKER_PROJECT = "revt_hf"


class MetricsLog:
    """One JSON object per line, ``step`` first; lines after a resumed step are dropped."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self._path = folder / METRICS_FILE
        kept = [row for row in read_metrics(folder) if row["step"] <= resumed_step]
        write_text(self._path, "".join(f"{json.dumps(row)}\n" for row in kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append the values of one step."""
        with readable_os_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


class Meter:
    """Mean loss and images per second since the last reading, over all processes.

    Args:
        images_per_step: of all processes.
        accelerator: of the run.
    """

    def __init__(self, images_per_step: int, accelerator: "Accelerator") -> None:
        self._images = images_per_step
        self._accelerator = accelerator
        self._losses: list[torch.Tensor] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Exclude the time until now from the speed."""
        self._since = time.perf_counter()
        self._steps = 0

    def add(self, loss: "torch.Tensor") -> None:
        """Add this process's share of one step's loss; the shares sum to the loss."""
        self._losses.append(loss)
        self._steps += 1

    def read(self, step: int) -> dict[str, float]:
        """The values since the last reading; every process must call it.

        Raises:
            UserError: the loss is not finite.
        """
        import torch

        from revt_hf.core.processes import failing_together

        total = self._accelerator.reduce(torch.stack(self._losses).mean(), reduction="sum")
        loss = float(total)
        with failing_together(self._accelerator):
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {step + 1}: lower optimizer.lr or check the labels"
                )
        rate = self._images * self._steps / max(time.perf_counter() - self._since, 1e-9)
        self._losses = []
        self.restart_clock()
        return {"loss": loss, "images_per_second": rate}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose library is not installed.

    Raises:
        UserError: naming it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"train.trackers: {name} is not installed: pip install {name}")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings as one level of scalars, which is all that TensorBoard accepts."""
    result: dict[str, str | int | float | bool] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            scalar = isinstance(value, str | int | float | bool)
            result[f"{prefix}{key}"] = value if scalar else str(value)
    return result
