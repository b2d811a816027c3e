"""A table as headings and cells of text, the one form that every format and page renders."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Literal

from revt_hf.evaluation.calibration import Calibration
from revt_hf.evaluation.result import Cost, Result

Role = Literal["name", "count", "source", "target", "mean", "gap", "cost", "calibration"]

DASH = "\u2013"
_MINUS = "\u2212"
# The field of Cost, its heading, the unit it is shown in, and its decimals.
COSTS = (
    ("parameters", "parameters (M)", 1e6, 1),
    ("flops", "GFLOPs", 1e9, 1),
    ("images_per_second", "images/s", 1.0, 1),
    ("peak_mib", "MiB", 1.0, 0),
)
# The field of Calibration, its heading, and its decimals.
CALIBRATIONS = (
    ("ece", "ECE (%)", 2),
    ("brier", "Brier", 3),
    ("nll", "NLL (nats)", 3),
    ("auroc", "AUROC (%)", 2),
    ("aurc", "AURC (%)", 2),
)
BETTER = "AUROC: higher is better; ECE, Brier, NLL and AURC: lower."


@dataclass(frozen=True)
class Spread:
    """The values of one cell, at least one: the mIoU of several seeds and heads, 0..100."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """Their population standard deviation, as in the original's ``collect_results.py``."""
        return statistics.pstdev(self.values)

    def __str__(self) -> str:
        """``28.7 ± 1.2``, or only the mean of one value."""
        return self.rounded(1)

    def rounded(self, decimals: int) -> str:
        mean, std = (f"{value:.{decimals}f}" for value in (self.mean, self.std))
        return f"{mean} \u00b1 {std}" if len(self.values) > 1 else mean


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean, or None if there is no value or one is missing: means stay comparable."""
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return None
    return math.fsum(present) / len(present)


def shown(value: float | None) -> str:
    """A number as the tables print it: one decimal, or a dash for None."""
    return DASH if value is None else f"{value:.1f}"


def shown_of(count: int, spread: Spread | None, decimals: int = 1) -> str:
    """The cell of ``count`` networks, which says how many have a value if not all do."""
    if spread is None:
        return DASH
    some = f" (n={len(spread.values)})" if len(spread.values) < count else ""
    return f"{spread.rounded(decimals)}{some}"


def difference(value: float, reference: float) -> float:
    """``value - reference`` of the printed numbers, so that a reader's subtraction agrees."""
    return round(round(value, 1) - round(reference, 1), 1)


def signed(delta: float | None) -> str:
    """A difference with its sign, one decimal, or a dash for None."""
    if delta is None:
        return DASH
    if abs(delta) < 0.05:
        return "\u00b10.0"
    return f"{'+' if delta > 0 else _MINUS}{abs(delta):.1f}"


def best_rows(column: Sequence[float | None]) -> set[int]:
    """The rows with the best printed number; none if fewer than two rows have one."""
    present = {row: shown(value) for row, value in enumerate(column) if value is not None}
    if len(present) < 2:
        return set()
    best = shown(max(value for value in column if value is not None))
    return {row for row, text in present.items() if text == best}


@dataclass(frozen=True)
class Heading:
    """The heading of one column: ``part`` and ``area`` are what stands below and above it."""

    name: str
    role: Role
    part: str = ""
    area: str = ""
    note: str = ""

    @property
    def flat(self) -> str:
        said = [self.part, "source" if self.role == "source" else ""]
        brackets = ", ".join(text for text in said if text)
        return f"{self.name} ({brackets})" if brackets else self.name


@dataclass(frozen=True)
class Cell:
    """Text of a cell, whether it is the best of its column, small print, and a bar of 0..100."""

    text: str
    best: bool = False
    note: str = ""
    bar: float | None = None


@dataclass(frozen=True)
class Span:
    """A heading over several columns and rows; ``heading`` is that of its first column."""

    text: str
    heading: Heading
    columns: int = 1
    rows: int = 1
    is_area: bool = False


@dataclass(frozen=True)
class TableLayout:
    """Headings and rows of cells; ``kinds`` of the rows are styles, ``records`` lines of CSV."""

    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    records: tuple[Mapping[str, str], ...] = ()

    @property
    def has_parts(self) -> bool:
        return any(heading.part for heading in self.headings)

    def spans(self, *fields: str) -> list[Span]:
        """Neighbours with the same fields, such as ``area``, under the text of the last field."""
        groups = [[*group] for _, group in groupby(self.headings, attrgetter(*fields))]
        return [Span(getattr(group[0], fields[-1]), group[0], len(group)) for group in groups]

    @property
    def head(self) -> list[list[Span]]:
        """Headings in up to three lines, as HTML spans them: areas, names and parts."""
        lower = 2 if self.has_parts else 1
        lines: list[list[Span]] = [[], [], []]
        for area, group in groupby(self.headings, attrgetter("area")):
            headings = [*group]
            if area:
                lines[0].append(Span(area, headings[0], len(headings), is_area=True))
            for _, same in groupby(headings, attrgetter("role", "name")):
                first, *others = same
                rows = (1 if first.part else lower) + (not area)
                lines[bool(area)].append(Span(first.name, first, 1 + len(others), rows))
        lines[2] = [Span(heading.part, heading) for heading in self.headings if heading.part]
        return [line for line in lines if line]

    @property
    def bodies(self) -> list[tuple[str, list[tuple[Cell, ...]]]]:
        kinds = self.kinds or ("",) * len(self.rows)
        pairs = groupby(zip(kinds, self.rows, strict=True), key=lambda pair: pair[0])
        return [(kind, [row for _, row in group]) for kind, group in pairs]


def cost_layout(costs: Mapping[str, Cost]) -> TableLayout:
    """The costs of models and ensembles by name, all of one image size on one device."""
    first = next(iter(costs.values()))
    height, width = first.image_size or (0, 0)
    return TableLayout(
        f"Cost of a {width}x{height} image ({first.device})",
        (Heading("model", "name"), *(Heading(name, "cost") for _, name, _, _ in COSTS)),
        tuple(
            (Cell(model), *(cost_cell(getattr(cost, name), unit, d) for name, _, unit, d in COSTS))
            for model, cost in costs.items()
        ),
    )


def calibration_layout(results: Sequence[Result]) -> TableLayout:
    """The calibration of models and ensembles on each split."""
    return TableLayout(
        "Calibration",
        (
            Heading("model", "name"),
            Heading("domain", "name"),
            *(Heading(name, "calibration") for _, name, _ in CALIBRATIONS),
        ),
        tuple(
            (Cell(one.row), Cell(score.label), *calibration_cells(score.calibration))
            for one in results
            for score in one.scores
            if score.calibration is not None
        ),
        (BETTER,),
    )


def calibration_cells(calibration: Calibration) -> Iterator[Cell]:
    for name, _, decimals in CALIBRATIONS:
        value = getattr(calibration, name)
        yield Cell(DASH if value is None else f"{value:.{decimals}f}")


def cost_cell(value: float | None, unit: float, decimals: int) -> Cell:
    return Cell(DASH if value is None else f"{value / unit:.{decimals}f}")


def gap(source: float | None, unseen: float | None) -> float | None:
    """mIoU on the source domain minus that on unseen domains (printed numbers), or None."""
    return None if source is None or unseen is None else difference(source, unseen)
