"""Where numbers of a run go: always ``metrics.jsonl``, and any tracker Accelerate knows."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revt_hf.errors import UserError

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """One JSON object a line, ``step`` first; lines after a resumed step are dropped."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self._path = folder / METRICS_FILE
        kept = [
            line
            for line in (self._path.read_text().splitlines() if self._path.exists() else [])
            if _step_of(line) <= resumed_step
        ]
        self._path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append the values of one step."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; empty where there is none."""
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose library is not installed.

    Raises:
        UserError: naming it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"train.trackers: {name} is not installed: pip install {name}")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings as one level of scalars, which is all that tensorboard takes."""
    result: dict[str, str | int | float | bool] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            scalar = isinstance(value, str | int | float | bool)
            result[f"{prefix}{key}"] = value if scalar else str(value)
    return result


def _step_of(line: str) -> int:
    # A killed process can leave half a line behind.
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**63
