"""What the benchmarks share: device and models, timing in turns, failures, tables."""

import platform
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
import transformers
from tqdm import tqdm
from transformers import SegformerForSemanticSegmentation

from revt_hf import __version__
from revt_hf.checkpoints.architecture import SIZES
from revt_hf.core.errors import UserError
from revt_hf.evaluation.cost import device_name
from revt_hf.models.load import load_model
from revt_hf.results.layout import Cell, Heading, Layout
from revt_hf.results.summary import DASH

OUT_OF_MEMORY = "out of memory"
RANDOM_WEIGHTS = "b0 to b5 have random weights: speed and memory do not depend on their values"
_PROCESSORS = Path("/proc/cpuinfo")
_LONGEST = 160

T = TypeVar("T")
Model: TypeAlias = SegformerForSemanticSegmentation


@dataclass(frozen=True)
class BenchmarkResult:
    """A finished benchmark.

    Attributes:
        kind: ``inference`` or ``training``.
        machine: what speed depends on besides the model; see :func:`machine_facts`.
        protocol: what was measured and how, as JSON values.
        rows: a dataclass for each row of the main table.
        tables: all results as text.
        loaders: of a training benchmark, a dataclass for each way of loading crops.
    """

    kind: str
    machine: Mapping[str, Any]
    protocol: Mapping[str, Any]
    rows: Sequence[Any]
    tables: Sequence[Layout]
    loaders: Sequence[Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``revt benchmark --json`` writes."""
        values = {"kind": self.kind, "machine": self.machine, "protocol": self.protocol}
        lists = {"rows": self.rows, "loaders": self.loaders}
        return values | {k: list(map(asdict, v)) for k, v in lists.items() if v is not None}


def machine_facts(device: torch.device) -> dict[str, Any]:
    """The device and its type, torch's threads, processor, system, versions and time (UTC)."""
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "revt_hf": __version__,
        "cuda": torch.version.cuda,
    }
    lines = _PROCESSORS.read_text().splitlines() if _PROCESSORS.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "device": device_name(device),
        "type": device.type,
        "threads": torch.get_num_threads(),
        "processor": names[0] if names else platform.processor() or "unknown processor",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version for name, version in versions.items() if version is not None},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def chosen_device(name: str | None) -> torch.device:
    """The device of that name; None is the first GPU if there is one, else the CPU.

    Raises:
        UserError: not ``cpu``, ``cuda`` or ``cuda:N``, or not on this machine.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda:0" if count else "cpu")
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number.isdigit() or name == "cuda")):
        raise UserError(f"--device {name}: use cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= count:
        raise UserError(f"--device {name}: torch finds {count} CUDA devices on this machine")
    return torch.device("cuda:0" if name == "cuda" else name)


def model_makers(
    models: Mapping[str, str], sizes: Sequence[str], random: Callable[[str], Model]
) -> dict[str, Callable[[], Model]]:
    """What makes each model, by name; saved models are loaded now.

    Raises:
        UserError: a model cannot be loaded, or a size is not ``b0`` to ``b5``.
    """
    for size in sizes:
        if size not in SIZES:
            raise UserError(f"--size {size}: use {', '.join(SIZES)}")
    makers = {size: partial(random, size) for size in sizes}
    loaded = {name: load_model(path) for name, path in models.items()}
    return {**makers, **{name: partial(loaded.__getitem__, name) for name in loaded}}


def progress_bar(total: int, unit: str, quiet: bool) -> Any:
    """A bar that each timed run updates."""
    return tqdm(total=total, unit=unit, desc="benchmark", disable=quiet)


def attempt(work: Callable[[], T], compiles: bool = False) -> tuple[T | None, str | None]:
    """The result and None, or None and why this machine cannot do it.

    Args:
        work: may need more memory than there is.
        compiles: whether ``work`` compiles, so that any error is such a reason.
    """
    try:
        return work(), None
    except Exception as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if full or "can't allocate memory" in str(error):
            reason = OUT_OF_MEMORY
        elif compiles:
            # The first line of dynamo's message only names the backend.
            lines = [line.strip() for line in str(error).splitlines()]
            telling = [line for line in lines if line and not line.endswith("raised:")]
            first = telling[0] if telling else type(error).__name__
            reason = f"torch.compile failed: {first[:_LONGEST]}"
        else:
            raise
    # The frames of the error have released their tensors only now.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, reason


def in_a_row(runs: int) -> int:
    """How many runs of one call follow each other: at most 5, for at least 8 turns."""
    return max(1, min(5, runs // 8))


def timed_in_turns(
    calls: Mapping[str, Callable[[], Any]], runs: int, after_each: Callable[[], Any]
) -> dict[str, list[float]]:
    """Seconds of each run, by name; a machine that slows down is slower for all calls.

    Args:
        calls: by name; each waits for its own work on a GPU.
        runs: of each call; :func:`in_a_row` of them follow each other.
        after_each: called after each run, not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for first in range(0, runs, in_a_row(runs)):
        for name, call in calls.items():
            for _ in range(min(in_a_row(runs), runs - first)):
                since = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - since)
                after_each()
    return seconds


def column(heading: str, scale: float = 1.0, decimals: int | None = None) -> Any:
    """A field of a row that is a column of the table; numbers have three digits by default."""
    return field(default=None, metadata={"column": (heading, scale, decimals)})


def table(
    caption: str,
    row: type,
    rows: Sequence[Any],
    notes: Sequence[str],
    machine: Mapping[str, Any],
    left_out: Collection[str] = (),
) -> Layout:
    """Rows of a dataclass as text.

    Args:
        caption: above the table.
        row: the dataclass; each :func:`column` is one, and a ``failure`` becomes a note.
        rows: its instances.
        notes: below the table, before the machine and the failures.
        machine: see :func:`machine_facts`.
        left_out: fields that are no columns this time.
    """
    shown = [one for one in fields(row) if one.metadata and one.name not in left_out]
    formats = {one.name: one.metadata["column"] for one in shown}
    headings = [
        Heading(at[0], "cost" if n > 1 else "name") for n, at in enumerate(formats.values())
    ]
    cells = [
        tuple(Cell(_text(getattr(one, name), *how[1:])) for name, how in formats.items())
        for one in rows
    ]
    failures = [
        f"{names[0].text} {names[1].text}: {one.failure}"
        for names, one in zip(cells, rows, strict=True)
        if one.failure is not None
    ]
    versions = [f"{name} {version}" for name, version in machine["versions"].items()]
    facts = [machine[key] for key in ("device", "processor", "system")]
    notes = [*notes, ", ".join([*facts, *versions, machine["date"]]), *failures]
    return Layout(caption, tuple(headings), tuple(cells), tuple(notes))


def _text(value: Any, scale: float, decimals: int | None) -> str:
    if value is None:
        return DASH
    if isinstance(value, str | bool):
        return str(value) if isinstance(value, str) else "yes" if value else "no"
    value *= scale
    if decimals is None:
        decimals = 0 if value >= 100 else None
    return f"{value:.3g}" if decimals is None else f"{value:.{decimals}f}"
