"""Where numbers of a run go: always ``metrics.jsonl``, and any tracker Accelerate knows."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import readable_os_errors, write_text

METRICS_FILE = "metrics.jsonl"
TRACKER_PROJECT = "revt_hf"
_LARGEST = 2**63


class MetricsLog:
    """One JSON object a line, ``step`` first; lines after a resumed step are dropped."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self._path = folder / METRICS_FILE
        kept = [row for row in read_metrics(folder) if row["step"] <= resumed_step]
        write_text(self._path, "".join(f"{json.dumps(row)}\n" for row in kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append the values of one step."""
        with readable_os_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``metrics.jsonl``: numbers by name, ``step`` among them.

    Empty where there is no such file; lines that are not whole, as a killed process or a full disk
    leaves them, are passed over.
    """
    try:
        lines = (folder / METRICS_FILE).read_bytes().splitlines()
    except OSError:
        return []
    return [row for row in map(_row, lines) if row is not None]


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


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    # Numbers that fit a float, infinity and NaN too.
    whole = all(
        isinstance(value, float) or (type(value) is int and abs(value) < _LARGEST)
        for value in row.values()
    )
    return row if whole and row["step"] >= 0 else None
