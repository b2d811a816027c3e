"""Tables of results: rows are groups of networks, columns are domains."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Result
from revt_hf.results import comparison
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
from revt_hf.results.published import DOMAINS, ROWS, SOURCES, compared_rows
from revt_hf.results.rows import (
    MARKS,
    MEAN,
    ScoredNetwork,
    Sources,
    TableRow,
    by_protocol,
    by_source,
    check_names_of_protocols,
    check_subset,
    entries_of,
    notes_on_selections,
    protocol_name,
    row_of,
)


@dataclass(frozen=True)
class TableOptions:
    classes: str | None = None
    protocol: str | None = None
    per_model: bool = False
    paper: str | None = None
    compare: str | None = None
    cost: bool = False
    calibration: bool = False

    def __post_init__(self) -> None:
        check_subset(self.classes)
        sources = (*SOURCES, "all")
        if self.paper is not None and self.paper not in sources:
            raise UserError(f"--paper '{self.paper}': use one of {', '.join(sources)}")
        if compared_rows(self.compare) and self.classes is not None:
            raise UserError(
                f"--compare: published numbers are over all 19 classes, not {self.classes}: leave "
                "one of them out"
            )


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

    def published(self, row: TableRow) -> dict[str, tuple[str, float]]:
        """A row's published numbers by domain, each with its heading."""
        if row.published is None or not (row.is_compared or self.is_papers):
            return {}
        found = comparison.headed_scores(row.published, self.protocol, self.options.classes)
        return {label: one for label, one in found.items() if label not in self.sources}

    @property
    def compared(self) -> set[str]:
        """The domains on which numbers of others are beside ours."""
        others = [self.published(row) for row in self.rows if row.is_compared]
        return {*self.labels}.intersection(label for found in others for label in found)

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """The headings of published numbers beside ours, for the domains that have some."""
        found = [
            (label, part) for row in self.rows for label, (part, _) in self.published(row).items()
        ]
        return {label: sorted({part for own, part in found if own == label}) for label, _ in found}

    @cached_property
    def counted(self) -> bool:
        return any(len(row.entries) > 1 for row in self.rows)

    def layout(self) -> TableLayout:
        self.rows.sort(key=attrgetter("order"))
        if len({row.size for row in self.rows if not row.is_compared}) > 1:
            self.rows = [row.with_size() for row in self.rows]
        best = self._best()
        parts = ["mIoU (%)" + (f" over {self.options.classes}" if self.options.classes else "")]
        parts += [f"source {', '.join(self.sources)}"] if self.sources else []
        return TableLayout(
            ", ".join([*parts, f"protocol {self.title}"]),
            tuple(self._headings()),
            tuple(tuple(self._cells(*pair)) for pair in zip(self.rows, best, strict=True)),
            tuple(self._notes(any(best))),
            kinds=tuple("published" if row.is_compared else "" for row in self.rows),
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
            for part in [*self.parts[label], "ours"] if label in self.parts else [""]:
                yield Heading(label, role, part, area)
        if self.has_mean:
            yield Heading(MEAN, "mean", area="targets")
        for _, name, _ in CALIBRATIONS if self.options.calibration else ():
            yield Heading(name, "calibration", area="calibration")
        for _, name, _, _ in COSTS if self.options.cost else ():
            yield Heading(name, "cost", area="cost")

    def _cells(self, row: TableRow, best: set[str]) -> Iterator[Cell]:
        yield Cell(f"{row.title} {MARKS[row.selected_on]}".strip())
        count = len(row.entries)
        if self.counted:
            yield Cell(str(count or DASH))
        published = self.published(row)
        for label in [*self.labels, *([MEAN] if self.has_mean else [])]:
            for part in self.parts.get(label, []):
                own, value = published.get(label, ("", 0.0))
                # The paper's table has two decimals.
                shown = f"{value:.2f}" if part == "paper" else f"{value:.1f}"
                yield Cell(shown if own == part else DASH)
            yield Cell(shown_of(count, row.cells.get(label)), label in best)
        calibration = row.calibration(self._calibrated)
        for name, _, decimals in CALIBRATIONS if self.options.calibration else ():
            yield Cell(shown_of(count, calibration.get(name), decimals))
        for name, _, unit, decimals in COSTS if self.options.cost else ():
            yield cost_cell(row.cost(name), unit, decimals)

    def _records(self, row: TableRow) -> Iterator[dict[str, str]]:
        options, published = self.options, self.published(row)
        for label in [*self.labels, MEAN]:
            common = {
                "protocol": self.title,
                "source": " ".join(self.sources),
                "classes": options.classes or "",
                "label": label,
                "is_source": str(label in self.sources).lower(),
            }
            of = self._calibrated if label == MEAN else [label]
            calibrated = of if options.calibration else []
            what = (published.get(label), options.compare is not None, options.cost, calibrated)
            yield from comparison.records(row, common, *what)

    def _notes(self, has_best: bool) -> Iterator[str]:
        if self.counted:
            yield "Mean \u00b1 population standard deviation over n networks (seeds and heads)."
        if has_best:
            sizes = {row.size for row in self.rows if row.entries}
            yield f"Bold: the best of a target domain{' and a size' if len(sizes) > 1 else ''}."
        if self.options.calibration:
            yield f"Calibration: means over {', '.join(self._calibrated)}. {BETTER}"
        shown = [row for row in self.rows if self.published(row)]
        yield from comparison.notes_on_published(shown, self.protocol)
        yield from comparison.notes_on_ours(self.rows, self.compared)
        for label in self.targets:
            kinds = self._images(label)
            if len(kinds) > 1:
                on = " and ".join(kinds)
                yield f"{label}: rows are not comparable, they were scored on {on}."
        mappings = [entry.result.mapping for row in self.rows for entry in row.entries]
        yield from dict.fromkeys(one.note for one in mappings if one)
        yield from notes_on_selections(self.rows)


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
    if options.compare is not None:
        _add_compared(tables, options.compare)
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
    measured = [row.published for table in tables if table.is_papers for row in table.rows]
    missing = [
        TableRow(row.title, size=row.size, published=row)
        for row in ROWS
        if options.paper in ("all", row.source) and row.scores(options.classes)
        if row not in measured
    ]
    for table in tables:
        sources = {row.published.source for row in table.rows if row.published and table.is_papers}
        mine = [row for row in missing if row.published and row.published.source in sources]
        missing = [row for row in missing if row not in mine]
        table.rows += mine
        table.labels += [label for label in DOMAINS if mine and label not in table.labels]
    if missing:
        protocol = PROTOCOLS["paper"]
        title = f"paper ({protocol.text})"
        alone = replace(options, cost=False)
        tables.append(_Table(protocol, title, (), alone, [*DOMAINS], missing))


def _add_compared(tables: list[_Table], names: str) -> None:
    """Add the rows of other methods to every table that has one of their domains."""
    rows = [TableRow(row.title, published=row) for row in compared_rows(names)]
    for table in tables:
        table.rows += [row for row in rows if table.published(row).keys() & {*table.labels}]
        comparison.check_classes(table.rows, table.compared)
    if not any(table.compared for table in tables):
        labels = [label for row in compared_rows(names) for label in row.miou]
        known = ", ".join(dict.fromkeys(labels))
        raise UserError(f"--compare {names}: these results have no score on {known} as a target")
