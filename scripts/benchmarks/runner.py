"""Runs pairs of callables that do the same work, interleaved, and reports the ratio of medians.

A module of this package registers rows with ``@row(...)``; every module beside this one is
imported. Ratios hold on any machine, absolute times do not.
"""

import importlib
import json
import multiprocessing
import pkgutil
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import benchmarks
from revt_hf.core.errors import UserError
from revt_hf.core.resources import peak_mib


@dataclass(frozen=True)
class Pair:
    """Two callables that do the same work, and how far apart their results are.

    Attributes:
        peer: the usual way.
        ours: this project's way.
        difference: of the peer's result and ours, in the unit that ``tolerance`` is given in.
    """

    peer: Callable[[], Any]
    ours: Callable[[], Any]
    difference: Callable[[Any, Any], float]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what ``--only`` takes.
        peer: the peer in words.
        goal: the peer's time divided by ours that is to be reached.
        prepare: makes the input and returns the pair; not timed.
        tolerance: the largest difference at which the results count as the same.
        repeats: at most so many timed runs of each side.
        seconds: no further run starts after this long.
        memory: also measure each side's peak memory, in a process of its own.
    """

    name: str
    peer: str
    goal: float
    prepare: Callable[[], Pair]
    tolerance: float = 0.0
    repeats: int = 15
    seconds: float = 10.0
    memory: bool = False


@dataclass(frozen=True)
class Result:
    """What running a row gave: times in milliseconds, memory in MiB above the input's own."""

    name: str
    peer: str
    peer_ms: float
    ours_ms: float
    ratio: float
    goal: float
    difference: float
    same: bool
    runs: int
    peer_mib: float | None
    ours_mib: float | None


ROWS: dict[str, Row] = {}


def row(name: str, **options: Any) -> Callable[[Callable[[], Pair]], Callable[[], Pair]]:
    """Register the decorated function as a row's ``prepare``; options are ``Row``'s fields."""

    def register(prepare: Callable[[], Pair]) -> Callable[[], Pair]:
        ROWS[name] = Row(name=name, prepare=prepare, **options)
        return prepare

    return register


def load_rows(only: Iterable[str] = ()) -> list[Row]:
    """All rows, or those named.

    Raises:
        UserError: an unknown name.
    """
    for module in pkgutil.iter_modules(benchmarks.__path__):
        importlib.import_module(f"{benchmarks.__name__}.{module.name}")
    if unknown := [name for name in only if name not in ROWS]:
        raise UserError(f"no benchmark '{unknown[0]}': there are {', '.join(sorted(ROWS))}")
    return [ROWS[name] for name in only or sorted(ROWS)]


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def run_row(entry: Row) -> Result:
    """Warm both sides up, compare their results, then time them in turn (A B A B)."""
    started = time.perf_counter()
    pair = entry.prepare()
    difference = float(pair.difference(pair.peer(), pair.ours()))
    times: list[tuple[float, float]] = []
    while not times or (
        len(times) < entry.repeats and time.perf_counter() - started < entry.seconds
    ):
        times.append((_timed(pair.peer), _timed(pair.ours)))
    peer_ms, ours_ms = (statistics.median(side) for side in zip(*times, strict=True))
    return Result(
        name=entry.name,
        peer=entry.peer,
        peer_ms=peer_ms,
        ours_ms=ours_ms,
        ratio=peer_ms / ours_ms,
        goal=entry.goal,
        difference=difference,
        same=difference <= entry.tolerance,
        runs=len(times),
        peer_mib=_peak_of(entry, "peer") if entry.memory else None,
        ours_mib=_peak_of(entry, "ours") if entry.memory else None,
    )


def _peak_of(entry: Row, side: str) -> float:
    """Peak memory of one side in a fresh process: a peak never falls, so sides cannot share one."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure_peak, (entry.name, side))


def _measure_peak(name: str, side: str) -> float:
    pair = load_rows([name])[0].prepare()
    before = peak_mib()
    getattr(pair, side)()
    return peak_mib() - before


_COLUMNS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("row", lambda r: r.name),
    ("peer", lambda r: r.peer),
    ("peer ms", lambda r: f"{r.peer_ms:.2f}"),
    ("ours ms", lambda r: f"{r.ours_ms:.2f}"),
    ("ratio", lambda r: f"{r.ratio:.1f}"),
    ("goal", lambda r: f"{r.goal:g}" + ("" if r.ratio >= r.goal else " missed")),
    ("difference", lambda r: f"{r.difference:.3g}" + ("" if r.same else " TOO LARGE")),
    ("MiB", lambda r: "" if r.peer_mib is None else f"{r.peer_mib:.0f} / {r.ours_mib:.0f}"),
)


def table(results: list[Result]) -> str:
    """The results as aligned text."""
    lines = [[title for title, _ in _COLUMNS]]
    lines += [[cell(result) for _, cell in _COLUMNS] for result in results]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def run(only: Iterable[str] = (), json_file: Path | None = None) -> bool:
    """Run the rows, print the table, and write it to a file; whether all results agree.

    Raises:
        UserError: an unknown name.
    """
    results = []
    for entry in load_rows(tuple(only)):
        print(f"{entry.name} ...", flush=True)
        results.append(run_row(entry))
    print(table(results))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return all(result.same for result in results)
