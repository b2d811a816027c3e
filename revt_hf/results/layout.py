"""A table as headings and cells of text: the one form that every format and page renders."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Literal

from revt_hf.evaluation.result import Cost
from revt_hf.results.rows import MEAN, TableRow
from revt_hf.results.summary import DASH, shown_spread
from revt_hf.results.tables import MARKS, ResultTable

Role = Literal["name", "count", "source", "target", "mean", "gap", "cost"]

# The field of Cost, its heading, the unit it is shown in, and its decimals.
_COSTS = (
    ("parameters", "parameters (M)", 1e6, 1),
    ("flops", "GFLOPs", 1e9, 1),
    ("images_per_second", "images/s", 1.0, 1),
    ("peak_mib", "MiB", 1.0, 0),
)
COST_FIELDS = tuple(name for name, *_ in _COSTS)


@dataclass(frozen=True)
class Heading:
    """The heading of one column."""

    name: str
    role: Role
    part: str = ""
    area: str = ""
    note: str = ""

    @property
    def flat(self) -> str:
        """Name, part and role in one line."""
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
    """Headings and rows of cells, as many in each row; ``kinds`` of the rows, for their style."""

    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def has_parts(self) -> bool:
        """Whether some headings share a name."""
        return any(heading.part for heading in self.headings)

    @property
    def areas(self) -> list[Span]:
        """Areas over their columns; neighbours without one are together."""
        groups = [[*group] for _, group in groupby(self.headings, attrgetter("area"))]
        return [Span(group[0].area, group[0], len(group), is_area=True) for group in groups]

    @property
    def names(self) -> list[Span]:
        """Names over their columns: the paper's and our numbers on a domain share one."""
        groups = [[*group] for _, group in groupby(self.headings, attrgetter("role", "name"))]
        return [Span(group[0].name, group[0], len(group)) for group in groups]

    @property
    def head(self) -> list[list[Span]]:
        """Headings in up to three lines, as HTML spans them."""
        lower = 2 if self.has_parts else 1
        first: list[Span] = []
        for area in self.areas:
            if area.text:
                first.append(area)
            else:
                at = self.headings.index(area.heading)
                alone = self.headings[at : at + area.columns]
                first += [Span(heading.name, heading, rows=1 + lower) for heading in alone]
        second = [
            Span(name.text, name.heading, name.columns, 1 if name.heading.part else lower)
            for name in self.names
            if name.heading.area
        ]
        third = [Span(heading.part, heading) for heading in self.headings if heading.part]
        return [line for line in (first, second, third) if line]

    @property
    def bodies(self) -> list[tuple[str, list[tuple[Cell, ...]]]]:
        """Neighbouring rows of one kind, with their kind."""
        kinds = self.kinds or ("",) * len(self.rows)
        pairs = groupby(zip(kinds, self.rows, strict=True), key=lambda pair: pair[0])
        return [(kind, [row for _, row in group]) for kind, group in pairs]


def layout(table: ResultTable) -> TableLayout:
    """A table of results as text."""
    return TableLayout(
        table.caption,
        tuple(_headings(table)),
        tuple(tuple(_cells(table, row)) for row in table.rows),
        table.notes,
    )


def cost_layout(costs: Mapping[str, Cost]) -> TableLayout:
    """The costs of models and ensembles by name, all of one image size on one device."""
    first = next(iter(costs.values()))
    height, width = first.image_size or (0, 0)
    return TableLayout(
        f"Cost of a {width}x{height} image ({first.device})",
        (Heading("model", "name"), *(Heading(name, "cost") for _, name, _, _ in _COSTS)),
        tuple(
            (Cell(model), *(_cost(getattr(cost, name), unit, d) for name, _, unit, d in _COSTS))
            for model, cost in costs.items()
        ),
    )


def _cost(value: float | None, unit: float, decimals: int) -> Cell:
    return Cell(DASH if value is None else f"{value / unit:.{decimals}f}")


def _headings(table: ResultTable) -> Iterator[Heading]:
    yield Heading("model", "name")
    if _counts(table):
        yield Heading("n", "count")
    for column in table.columns:
        role: Role = "source" if column.is_source else "target"
        area = "source" if column.is_source else "targets"
        for part in ("paper", "ours") if column.has_paper else ("",):
            yield Heading(column.label, role, part, area)
    if table.has_mean:
        yield Heading(MEAN, "mean", area="targets")
    if table.costs:
        for _, name, _, _ in _COSTS:
            yield Heading(name, "cost", area="cost")


def _cells(table: ResultTable, row: TableRow) -> Iterator[Cell]:
    yield Cell(f"{row.title} {MARKS[row.selected_on]}".strip())
    if _counts(table):
        yield Cell(str(row.count) if row.count else DASH)
    papers = row.paper_scores(table.classes)
    for column in table.columns:
        if column.has_paper:
            yield Cell(f"{papers[column.label]:.2f}" if column.label in papers else DASH)
        yield _score(row, column.label)
    if table.has_mean:
        yield _score(row, MEAN)
    for name, _, unit, decimals in _COSTS if table.costs else ():
        yield _cost(row.cost(name), unit, decimals)


def _score(row: TableRow, label: str) -> Cell:
    spread = row.cells.get(label)
    text = shown_spread(spread)
    if spread is not None and len(spread.values) < row.count:
        text += f" (n={len(spread.values)})"
    return Cell(text, label in row.best)


def _counts(table: ResultTable) -> bool:
    return any(row.count > 1 for row in table.rows)
