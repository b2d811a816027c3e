"""A table of results as headings and cells of text, which every format writes in its own way."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from revt_hf.results.notes import MARKS
from revt_hf.results.rows import MEAN, ResultTable, TableRow
from revt_hf.results.summary import DASH, shown_spread

Role = Literal["name", "count", "source", "target", "mean", "cost"]

# The field of Cost, its heading, the unit that it is shown in, and its decimals.
_COSTS = (
    ("parameters", "parameters (M)", 1e6, 1),
    ("flops", "GFLOPs", 1e9, 1),
    ("images_per_second", "images/s", 1.0, 1),
    ("peak_mib", "MiB", 1.0, 0),
)
COST_FIELDS = tuple(name for name, *_ in _COSTS)
# What stands above the headings of several columns.
_AREAS: dict[Role, str] = {
    "name": "",
    "count": "",
    "source": "source",
    "target": "targets",
    "mean": "targets",
    "cost": "cost",
}


@dataclass(frozen=True)
class Heading:
    """Of one column of text: what it is about, and which part of it, such as ``paper``."""

    name: str
    role: Role
    part: str = ""

    @property
    def area(self) -> str:
        """What stands above the headings of several columns."""
        return _AREAS[self.role]

    @property
    def flat(self) -> str:
        """All of it in one line."""
        said = [self.part, "source" if self.role == "source" else ""]
        brackets = ", ".join(text for text in said if text)
        return f"{self.name} ({brackets})" if brackets else self.name


@dataclass(frozen=True)
class Cell:
    """Text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Layout:
    """Headings and rows of cells, as many in each row."""

    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


def layout(table: ResultTable) -> Layout:
    """A table as text."""
    return Layout(
        table.caption,
        tuple(_headings(table)),
        tuple(tuple(_cells(table, row)) for row in table.rows),
        table.notes,
    )


def _headings(table: ResultTable) -> Iterator[Heading]:
    yield Heading("model", "name")
    if _counts(table):
        yield Heading("n", "count")
    for column in table.columns:
        role: Role = "source" if column.is_source else "target"
        for part in ("paper", "ours") if column.has_paper else ("",):
            yield Heading(column.label, role, part)
    if table.has_mean:
        yield Heading(MEAN, "mean")
    if table.costs:
        for _, name, _, _ in _COSTS:
            yield Heading(name, "cost")


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
        value = row.cost(name)
        yield Cell(DASH if value is None else f"{value / unit:.{decimals}f}")


def _score(row: TableRow, label: str) -> Cell:
    spread = row.cells.get(label)
    text = shown_spread(spread)
    if spread is not None and len(spread.values) < row.count:
        text += f" (n={len(spread.values)})"
    return Cell(text, label in row.best)


def _counts(table: ResultTable) -> bool:
    return any(row.count > 1 for row in table.rows)
