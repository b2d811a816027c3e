"""The tables of results: rows are groups of networks, columns are domains."""

from collections.abc import Hashable, Sequence
from dataclasses import replace

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Result
from revt_hf.results.entries import Entry, by_source, entries_of, protocol_name
from revt_hf.results.notes import compared, notes_of
from revt_hf.results.paper import DOMAINS, ROWS
from revt_hf.results.rows import (
    Column,
    ResultTable,
    TableOptions,
    TableRow,
    not_averaged,
    row_of,
)
from revt_hf.results.summary import best_rows

_KINDS = ("init", "member", "merge", "recalibrated", "ensemble", "selection")


def build_tables(results: Sequence[Result], options: TableOptions) -> list[ResultTable]:
    """One table for each protocol and source, in order of appearance.

    Raises:
        UserError: no evaluation is by the protocol that was asked for; numbers of one group that
            cannot be averaged.
    """
    chosen = _by_protocol(results, options.protocol)
    entries = entries_of(chosen)
    _check_names_of_protocols(entries)
    tables = []
    for protocol in dict.fromkeys(entry.protocol for entry in entries):
        same = [entry for entry in entries if entry.protocol == protocol]
        for sources, part in by_source(same, [entry.sources for entry in same]).items():
            tables.append(_table(protocol, sources, part, options))
    if options.paper is not None:
        tables = _with_paper(tables, options)
    return [_finished(table) for table in tables]


def _by_protocol(results: Sequence[Result], name: str | None) -> list[Result]:
    def names(one: Result) -> set[str]:
        return {text for text in (one.protocol_name, protocol_name(one)) if text}

    chosen = [one for one in results if name is None or name in names(one)]
    if not chosen and results:
        known = sorted({text for one in results for text in names(one)})
        raise UserError(f"no evaluation is by the protocol '{name}', only by {', '.join(known)}")
    return chosen


def _check_names_of_protocols(entries: Sequence[Entry]) -> None:
    """Refuse one name for two protocols where a reader would take them for one."""
    seen: dict[Hashable, Entry] = {}
    for entry in entries:
        name = entry.result.protocol_name
        for label in entry.scores:
            one = entry.result
            first = seen.setdefault((name, entry.sources, one.row, one.size, label), entry)
            if name is not None and first.protocol != entry.protocol:
                raise UserError(
                    f"{not_averaged(first, entry, label)}: their protocol '{name}' is "
                    f"{first.protocol.text} and {entry.protocol.text}; keep one"
                )


def _table(
    protocol: Protocol, sources: tuple[str, ...], entries: Sequence[Entry], options: TableOptions
) -> ResultTable:
    groups: dict[Hashable, list[Entry]] = {}
    for entry in entries:
        one = entry.result
        key = (one.row, one.kind, one.paper, one.size)
        own = (one.model, one.seed, one.head) if options.per_model else ()
        groups.setdefault((*key, *own), []).append(entry)
    labels = list(dict.fromkeys(label for entry in entries for label in entry.scores))
    labels.sort(key=lambda label: label not in sources)
    targets = [label for label in labels if label not in sources]
    rows = [row_of(group, labels, targets, options) for group in groups.values()]
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
    missing = [
        TableRow(row.title, paper=row)
        for row in ROWS
        if options.paper in ("all", row.source) and row.over(options.classes)
    ]
    done = []
    for table in tables:
        if _is_papers(table):
            there = {row.paper for row in table.rows if row.paper}
            missing = [row for row in missing if row.paper not in there]
    for table in tables:
        sources = {row.paper.source for row in table.rows if row.paper}
        mine = [
            row
            for row in missing
            if _is_papers(table) and row.paper and row.paper.source in sources
        ]
        missing = [row for row in missing if row not in mine]
        more = [Column(label) for label in DOMAINS if mine and label not in table.labels]
        done.append(replace(table, rows=(*table.rows, *mine), columns=(*table.columns, *more)))
    if missing:
        values = PROTOCOLS["paper"]
        title = f"paper ({values.text})"
        columns = tuple(map(Column, DOMAINS))
        done.append(ResultTable(values, title, (), options.classes, columns, tuple(missing)))
    return done


def _is_papers(table: ResultTable) -> bool:
    """Whether the paper's numbers are by this protocol and on one of these domains."""
    return table.protocol == PROTOCOLS["paper"] and not set(DOMAINS).isdisjoint(table.targets)


def _finished(table: ResultTable) -> ResultTable:
    """With the paper's columns, the best numbers and the notes."""
    if _is_papers(table):
        known = {label for row in table.rows for label in row.paper_scores(table.classes)}
        columns = [
            replace(column, has_paper=not column.is_source and column.label in known)
            for column in table.columns
        ]
        table = replace(table, columns=tuple(columns))
    rows = _titled(sorted(table.rows, key=_place))
    best: list[set[str]] = [set() for _ in rows]
    for label in compared(table):
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
    return replace(table, notes=tuple(notes_of(table)))


def _place(row: TableRow) -> tuple[str, int]:
    """Rows go by size, then by kind; those of the paper that nobody measured are the last."""
    # What nobody named a kind for stands among the members.
    kind = _KINDS.index(row.kind or "member") if row.entries else len(_KINDS)
    return row.size or "", kind


def _titled(rows: Sequence[TableRow]) -> list[TableRow]:
    """With the size in the title where there are several."""
    if len({row.size for row in rows}) == 1:
        return list(rows)
    return [
        replace(row, title=f"{row.title}, SegFormer-{row.size.upper()}")
        if row.entries and row.size
        else row
        for row in rows
    ]
