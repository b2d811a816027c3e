"""Tables of results: rows are groups of networks, columns are domains."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Result, Selected
from revt_hf.results.paper import DOMAINS, ROWS, SOURCES
from revt_hf.results.rows import (
    MEAN,
    ScoredNetwork,
    TableRow,
    by_protocol,
    by_source,
    check_subset,
    entries_of,
    not_averaged,
    protocol_name,
    row_of,
)
from revt_hf.results.summary import best_rows

MARKS: dict[str | None, str] = {"source": "\u2020", "target": "\u2021", None: ""}
_KINDS = ("init", "member", "merge", "recalibrated", "ensemble", "selection")


@dataclass(frozen=True)
class TableOptions:
    """What a table shows."""

    classes: str | None = None
    protocol: str | None = None
    per_model: bool = False
    paper: str | None = None
    cost: bool = False

    def __post_init__(self) -> None:
        check_subset(self.classes)
        sources = (*SOURCES, "all")
        if self.paper is not None and self.paper not in sources:
            raise UserError(f"--paper '{self.paper}': use one of {', '.join(sources)}")


@dataclass(frozen=True)
class Column:
    """A domain: its label, whether it is a source-val, and whether the paper has numbers."""

    label: str
    is_source: bool = False
    has_paper: bool = False


@dataclass(frozen=True)
class ResultTable:
    """Networks that were scored by one protocol and trained on the same source."""

    protocol: Protocol
    protocol_title: str
    sources: tuple[str, ...]
    classes: str | None
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    has_mean: bool = False
    costs: bool = False
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all domains."""
        return tuple(column.label for column in self.columns)

    @property
    def targets(self) -> tuple[str, ...]:
        """The labels of the domains that are no source-val."""
        return tuple(column.label for column in self.columns if not column.is_source)

    @property
    def caption(self) -> str:
        """What the numbers are."""
        parts = ["mIoU (%)" + (f" over {self.classes}" if self.classes else "")]
        parts += [f"source {', '.join(self.sources)}"] if self.sources else []
        return ", ".join([*parts, f"protocol {self.protocol_title}"])

    @property
    def comparable(self) -> list[str]:
        """The columns in which all rows were scored on the same images and labels."""
        same = [label for label in self.targets if len(self._images(label)) <= 1]
        return [*same, *([MEAN] if len(same) == len(self.targets) else [])]

    @property
    def is_papers(self) -> bool:
        """Whether the paper's numbers are by this protocol and on one of these domains."""
        return self.protocol == PROTOCOLS["paper"] and not set(DOMAINS).isdisjoint(self.targets)

    def _images(self, label: str) -> set[str]:
        scores = [e.scores[label] for row in self.rows for e in row.entries if label in e.scores]
        return {
            f"{one.images} images" + (f" of {one.label_encoding}" if one.label_encoding else "")
            for one in scores
        }

    def written_notes(self) -> Iterator[str]:
        """What a reader must know, in sentences."""
        if any(row.count > 1 for row in self.rows):
            yield "Mean \u00b1 population standard deviation over n networks (seeds and heads)."
        if any(row.best for row in self.rows):
            sizes = {row.size for row in self.rows if row.entries}
            yield f"Bold: the best of a target domain{' and a size' if len(sizes) > 1 else ''}."
        if any(column.has_paper for column in self.columns):
            yield (
                "paper: from the README of the original implementation, not measured here; ours: "
                "measured here."
            )
            if any(row.paper and row.paper.source == "synthia" for row in self.rows):
                yield (
                    "The paper does not say whether its SYNTHIA numbers average 16 or 19 classes."
                )
        for label in self.targets:
            if label not in self.comparable:
                kinds = " and ".join(sorted(self._images(label)))
                yield f"{label}: rows are not comparable, they were scored on {kinds}."
        for kind in ("source", "target"):
            yield from self._selections(kind)

    def _selections(self, kind: str) -> Iterator[str]:
        """One note for all rows that were selected in the same way."""
        rows: dict[str, list[str]] = {}
        for row in self.rows:
            if row.selected_on == kind:
                rows.setdefault(_how_selected(row.selections), []).append(row.title)
        for how, titles in rows.items():
            on = f"selected on {how}"
            if kind == "target":
                on = f"selected on a target domain: not a generalisation result ({how})"
            yield f"{MARKS[kind]} {'; '.join(titles)}: {on}."


def _how_selected(selections: Sequence[Selected]) -> str:
    on = dict.fromkeys(label for one in selections for label in one.on)
    counts = sorted({one.candidates for one in selections})
    return f"{', '.join(on)}; the best of {' or '.join(map(str, counts))}"


def build_tables(
    results: Sequence[Result], options: TableOptions | None = None
) -> list[ResultTable]:
    """One table for each protocol and source, in order of appearance."""
    options = options or TableOptions()
    entries = entries_of(by_protocol(results, options.protocol))
    _check_names_of_protocols(entries)
    tables = []
    for protocol in dict.fromkeys(entry.protocol for entry in entries):
        same = [entry for entry in entries if entry.protocol == protocol]
        for sources, part in by_source(same, [entry.sources for entry in same]).items():
            tables.append(_table(protocol, sources, part, options))
    if options.paper is not None:
        tables = _with_paper(tables, options)
    return [_finished(table) for table in tables]


def _check_names_of_protocols(entries: Sequence[ScoredNetwork]) -> None:
    """Refuse one name for two protocols where a reader would take them for one."""
    seen: dict[Hashable, ScoredNetwork] = {}
    for entry in entries:
        one = entry.result
        for label in entry.scores:
            key = (one.protocol_name, entry.sources, one.row, one.size, label)
            first = seen.setdefault(key, entry)
            if one.protocol_name is not None and first.protocol != entry.protocol:
                raise UserError(
                    f"{not_averaged(first, entry, label)}: their protocol '{one.protocol_name}' "
                    f"is {first.protocol.text} and {entry.protocol.text}; keep one"
                )


def _table(
    protocol: Protocol,
    sources: tuple[str, ...],
    entries: Sequence[ScoredNetwork],
    options: TableOptions,
) -> ResultTable:
    groups: dict[Hashable, list[ScoredNetwork]] = {}
    for entry in entries:
        one = entry.result
        own = entry.name if options.per_model else ()
        groups.setdefault((one.row, one.kind, one.paper, one.size, *own), []).append(entry)
    labels = list(dict.fromkeys(label for entry in entries for label in entry.scores))
    labels.sort(key=lambda label: label not in sources)
    targets = [label for label in labels if label not in sources]
    rows = []
    for group in groups.values():
        title = group[0].result.model if options.per_model else group[0].result.row
        rows.append(row_of(group, labels, targets, options.classes, title))
    name = protocol_name(entries[0].result)
    return ResultTable(
        protocol,
        f"{name} ({protocol.text})" if name else protocol.text,
        sources,
        options.classes,
        tuple(Column(label, label in sources) for label in labels),
        tuple(rows),
        has_mean=len(targets) > 1,
        costs=options.cost,
    )


def _with_paper(tables: Sequence[ResultTable], options: TableOptions) -> list[ResultTable]:
    """Add the paper's rows that nobody measured: to a table of their source, else to a new one."""
    measured = {row.paper for table in tables if table.is_papers for row in table.rows}
    missing = [
        TableRow(row.title, paper=row)
        for row in ROWS
        if options.paper in ("all", row.source) and row.over(options.classes)
        if row not in measured
    ]
    done = []
    for table in tables:
        sources = {row.paper.source for row in table.rows if row.paper and table.is_papers}
        mine = [row for row in missing if row.paper and row.paper.source in sources]
        missing = [row for row in missing if row not in mine]
        more = [Column(label) for label in DOMAINS if mine and label not in table.labels]
        done.append(replace(table, rows=(*table.rows, *mine), columns=(*table.columns, *more)))
    if missing:
        protocol = PROTOCOLS["paper"]
        title, columns = f"paper ({protocol.text})", tuple(map(Column, DOMAINS))
        done.append(ResultTable(protocol, title, (), options.classes, columns, tuple(missing)))
    return done


def _finished(table: ResultTable) -> ResultTable:
    """With the paper's columns, the best numbers and the notes."""
    if table.is_papers:
        known = {label for row in table.rows for label in row.paper_scores(table.classes)}
        columns = [
            replace(column, has_paper=not column.is_source and column.label in known)
            for column in table.columns
        ]
        table = replace(table, columns=tuple(columns))
    rows = _with_sizes(sorted(table.rows, key=_order))
    best: list[set[str]] = [set() for _ in rows]
    for label in table.comparable:
        for size in {row.size for row in rows}:
            column = [
                row.cells[label].mean
                if row.size == size and row.selected_on != "target" and label in row.cells
                else None
                for row in rows
            ]
            for number in best_rows(column):
                best[number].add(label)
    rows = [replace(row, best=frozenset(b)) for row, b in zip(rows, best, strict=True)]
    table = replace(table, rows=tuple(rows))
    return replace(table, notes=tuple(table.written_notes()))


def _order(row: TableRow) -> tuple[str, int]:
    """Rows go by size, then by kind; those of the paper that nobody measured come last."""
    # A network of no kind is listed among the members.
    kind = _KINDS.index(row.kind or "member") if row.entries else len(_KINDS)
    return row.size or "", kind


def _with_sizes(rows: Sequence[TableRow]) -> list[TableRow]:
    """With the size in the title where there are several."""
    if len({row.size for row in rows}) == 1:
        return list(rows)
    return [
        replace(row, title=f"{row.title}, SegFormer-{row.size.upper()}")
        if row.entries and row.size
        else row
        for row in rows
    ]
