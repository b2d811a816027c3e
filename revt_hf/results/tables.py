"""Tables of results: rows are groups of networks, columns are domains."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Result
from revt_hf.results.layout import (
    BETTER,
    CALIBRATIONS,
    COSTS,
    DASH,
    Cell,
    Heading,
    Role,
    TableLayout,
    best_rows,
    cost_cell,
    shown_of,
)
from revt_hf.results.paper import DOMAINS, ROWS, SOURCES
from revt_hf.results.rows import (
    MEAN,
    ScoredNetwork,
    Sources,
    TableRow,
    by_protocol,
    by_source,
    check_names_of_protocols,
    check_subset,
    entries_of,
    protocol_name,
    row_of,
)

_MARKS: dict[str | None, str] = {"source": "\u2020", "target": "\u2021", None: ""}
_KINDS = ("init", "member", "merge", "recalibrated", "refit", "ensemble", "selection")


@dataclass(frozen=True)
class TableOptions:
    classes: str | None = None
    protocol: str | None = None
    per_model: bool = False
    paper: str | None = None
    cost: bool = False
    calibration: bool = False

    def __post_init__(self) -> None:
        check_subset(self.classes)
        sources = (*SOURCES, "all")
        if self.paper is not None and self.paper not in sources:
            raise UserError(f"--paper '{self.paper}': use one of {', '.join(sources)}")


@dataclass
class _Table:
    """Networks that were scored by one protocol and trained on the same source."""

    protocol: Protocol
    title: str
    sources: Sources
    options: TableOptions
    labels: list[str]
    rows: list[TableRow] = field(default_factory=list)
    has_mean: bool = False

    @property
    def targets(self) -> list[str]:
        return [label for label in self.labels if label not in self.sources]

    @property
    def _calibrated(self) -> list[str]:
        """The domains over which calibration is averaged."""
        return self.targets or self.labels

    @property
    def is_papers(self) -> bool:
        """Whether the paper's numbers are by this protocol and on one of these domains."""
        return self.protocol == PROTOCOLS["paper"] and not set(DOMAINS).isdisjoint(self.targets)

    @cached_property
    def with_paper(self) -> set[str]:
        """The labels of the domains on which the paper's numbers are shown beside ours."""
        rows = self.rows if self.is_papers else []
        known = {label for row in rows for label in row.paper_scores(self.options.classes)}
        return known - set(self.sources)

    @cached_property
    def counted(self) -> bool:
        return any(len(row.entries) > 1 for row in self.rows)

    def layout(self) -> TableLayout:
        self.rows.sort(key=_order)
        if len({row.size for row in self.rows}) > 1:
            self.rows = [row.with_size() for row in self.rows]
        best = self._best()
        parts = ["mIoU (%)" + (f" over {self.options.classes}" if self.options.classes else "")]
        parts += [f"source {', '.join(self.sources)}"] if self.sources else []
        return TableLayout(
            ", ".join([*parts, f"protocol {self.title}"]),
            tuple(self._headings()),
            tuple(tuple(self._cells(*pair)) for pair in zip(self.rows, best, strict=True)),
            tuple(self._notes(any(best))),
            records=tuple(record for row in self.rows for record in self._records(row)),
        )

    def _images(self, label: str) -> list[str]:
        """What images and labels the rows were scored on; one of them if they are comparable."""
        scores = [e.scores[label] for row in self.rows for e in row.entries if label in e.scores]
        kinds = {
            f"{one.images} images" + (f" of {one.label_encoding}" if one.label_encoding else "")
            for one in scores
        }
        return sorted(kinds)

    def _best(self) -> list[set[str]]:
        """The labels on which each row is the best of its size."""
        comparable = [label for label in self.targets if len(self._images(label)) <= 1]
        mean = [MEAN] if len(comparable) == len(self.targets) else []
        best: list[set[str]] = [set() for _ in self.rows]
        for label in comparable + mean:
            for size in {row.size for row in self.rows}:
                column = [
                    row.cells[label].mean
                    if row.size == size and row.selected_on != "target" and label in row.cells
                    else None
                    for row in self.rows
                ]
                for number in best_rows(column):
                    best[number].add(label)
        return best

    def _headings(self) -> Iterator[Heading]:
        yield Heading("model", "name")
        if self.counted:
            yield Heading("n", "count")
        for label in self.labels:
            role: Role = "source" if label in self.sources else "target"
            area = "source" if role == "source" else "targets"
            for part in ("paper", "ours") if label in self.with_paper else ("",):
                yield Heading(label, role, part, area)
        if self.has_mean:
            yield Heading(MEAN, "mean", area="targets")
        for _, name, _ in CALIBRATIONS if self.options.calibration else ():
            yield Heading(name, "calibration", area="calibration")
        for _, name, _, _ in COSTS if self.options.cost else ():
            yield Heading(name, "cost", area="cost")

    def _cells(self, row: TableRow, best: set[str]) -> Iterator[Cell]:
        yield Cell(f"{row.title} {_MARKS[row.selected_on]}".strip())
        count = len(row.entries)
        if self.counted:
            yield Cell(str(count or DASH))
        papers = row.paper_scores(self.options.classes)
        for label in [*self.labels, *([MEAN] if self.has_mean else [])]:
            if label in self.with_paper:
                yield Cell(f"{papers[label]:.2f}" if label in papers else DASH)
            yield Cell(shown_of(count, row.cells.get(label)), label in best)
        calibration = row.calibration(self._calibrated)
        for name, _, decimals in CALIBRATIONS if self.options.calibration else ():
            yield Cell(shown_of(count, calibration.get(name), decimals))
        for name, _, unit, decimals in COSTS if self.options.cost else ():
            yield cost_cell(row.cost(name), unit, decimals)

    def _records(self, row: TableRow) -> Iterator[dict[str, str]]:
        """Lines of CSV: mean and population std (percent), n, the paper's number, all values."""
        papers = row.paper_scores(self.options.classes)
        costs = {name: row.cost(name) for name, *_ in COSTS if self.options.cost}
        for label in [*self.labels, MEAN]:
            spread = row.cells.get(label)
            paper = papers.get(label) if label in self.with_paper else None
            if spread is None and paper is None:
                continue
            of = self._calibrated if label == MEAN else [label]
            calibration = row.calibration(of) if self.options.calibration else {}
            yield {
                "protocol": self.title,
                "source": " ".join(self.sources),
                "classes": self.options.classes or "",
                "group": row.title,
                "kind": row.kind or "",
                "selected_on": row.selected_on or "",
                "label": label,
                "is_source": str(label in self.sources).lower(),
                "mean": _number(spread.mean if spread else None),
                "std": _number(spread.std if spread else None),
                "n": str(len(spread.values) if spread else 0),
                "paper": "" if paper is None else f"{paper:.2f}",
                "values": " ".join(map(repr, spread.values if spread else ())),
                **{name: _number(cost) for name, cost in costs.items()},
                **{name: _number(one.mean) for name, one in calibration.items()},
            }

    def _notes(self, has_best: bool) -> Iterator[str]:
        if self.counted:
            yield "Mean \u00b1 population standard deviation over n networks (seeds and heads)."
        if has_best:
            sizes = {row.size for row in self.rows if row.entries}
            yield f"Bold: the best of a target domain{' and a size' if len(sizes) > 1 else ''}."
        if self.options.calibration:
            yield f"Calibration: means over {', '.join(self._calibrated)}. {BETTER}"
        if self.with_paper:
            yield (
                "paper: from the README of the original implementation, not measured here; "
                "ours: measured here."
            )
            if any(row.paper and row.paper.source == "synthia" for row in self.rows):
                yield "The paper does not say whether its SYNTHIA numbers average 16 or 19 classes."
        for label in self.targets:
            kinds = self._images(label)
            if len(kinds) > 1:
                on = " and ".join(kinds)
                yield f"{label}: rows are not comparable, they were scored on {on}."
        mappings = [entry.result.mapping for row in self.rows for entry in row.entries]
        yield from dict.fromkeys(one.note for one in mappings if one)
        # One note for all rows that were selected in the same way.
        alike: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row.selected_on is not None:
                key = row.selected_on, row.how_selected
                alike.setdefault(key, []).append(row.title)
        for (kind, how), titles in sorted(alike.items(), key=lambda item: item[0][0]):
            on = f"selected on {how}"
            if kind == "target":
                on = f"selected on a target domain: not a generalisation result ({how})"
            yield f"{_MARKS[kind]} {'; '.join(titles)}: {on}."


def build_tables(
    results: Sequence[Result], options: TableOptions | None = None
) -> list[TableLayout]:
    """One table for each protocol and source, in order of appearance."""
    options = options or TableOptions()
    entries = entries_of(by_protocol(results, options.protocol))
    check_names_of_protocols(entries)
    tables = []
    for protocol in dict.fromkeys(entry.result.protocol for entry in entries):
        same = [entry for entry in entries if entry.result.protocol == protocol]
        for sources, part in by_source(same, [entry.sources for entry in same]).items():
            tables.append(_table(protocol, sources, part, options))
    if options.paper is not None:
        _add_paper(tables, options)
    return [table.layout() for table in tables]


def _table(
    protocol: Protocol, sources: Sources, entries: Sequence[ScoredNetwork], options: TableOptions
) -> _Table:
    groups: dict[Hashable, list[ScoredNetwork]] = {}
    for entry in entries:
        one = entry.result
        own = entry.name if options.per_model else ()
        groups.setdefault((one.row, one.kind, one.paper, one.size, *own), []).append(entry)
    labels = list(dict.fromkeys(label for entry in entries for label in entry.scores))
    labels.sort(key=lambda label: label not in sources)
    name = protocol_name(entries[0].result)
    title = f"{name} ({protocol.text})" if name else protocol.text
    table = _Table(protocol, title, sources, options, labels)
    targets, table.has_mean = table.targets, len(table.targets) > 1
    for group in groups.values():
        first = group[0].result
        title = first.mapped(first.model) if options.per_model else first.row
        table.rows.append(row_of(group, labels, targets, options.classes, title))
    return table


def _add_paper(tables: list[_Table], options: TableOptions) -> None:
    """Add the paper's rows that nobody measured: to a table of their source, else to a new one."""
    measured = {row.paper for table in tables if table.is_papers for row in table.rows}
    missing = [
        TableRow(row.title, size=row.size, paper=row)
        for row in ROWS
        if options.paper in ("all", row.source) and row.scores(options.classes)
        if row not in measured
    ]
    for table in tables:
        sources = {row.paper.source for row in table.rows if row.paper and table.is_papers}
        mine = [row for row in missing if row.paper and row.paper.source in sources]
        missing = [row for row in missing if row not in mine]
        table.rows += mine
        table.labels += [label for label in DOMAINS if mine and label not in table.labels]
    if missing:
        protocol = PROTOCOLS["paper"]
        title = f"paper ({protocol.text})"
        alone = replace(options, cost=False)
        tables.append(_Table(protocol, title, (), alone, [*DOMAINS], missing))


def _order(row: TableRow) -> tuple[str, int]:
    """Rows go by size, then by kind; those of the paper that nobody measured come last."""
    # A network of no kind is listed among the members.
    kind = _KINDS.index(row.kind or "member") if row.entries else len(_KINDS)
    return row.size or "", kind


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
