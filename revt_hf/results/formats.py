"""Tables of results for the terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TextIO

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from revt_hf.core.errors import UserError, printable
from revt_hf.results.layout import COST_FIELDS, Heading, Layout, layout
from revt_hf.results.markdown import text
from revt_hf.results.markup import html, latex
from revt_hf.results.rows import MEAN, ResultTable, TableRow

# Columns of text in a file or a pipe, where nothing needs to be folded.
_WIDE = 1000


class TableFormat(StrEnum):
    """How a table is written."""

    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    html = "html"


def table_format(name: str) -> TableFormat:
    """The format of that name.

    Raises:
        UserError: there is none.
    """
    if name not in list(TableFormat):
        raise UserError(f"--format '{name}': use one of {', '.join(TableFormat)}")
    return TableFormat(name)


def formatted(tables: Sequence[ResultTable], chosen: TableFormat) -> str:
    """Tables as text that ends in a line break."""
    if chosen is TableFormat.terminal:
        out = io.StringIO()
        print_tables(tables, out)
        return out.getvalue()
    if chosen is TableFormat.csv:
        return csv_lines(tables)
    write = {TableFormat.latex: latex, TableFormat.html: html, TableFormat.markdown: markdown}
    return "\n".join(write[chosen](layout(table)) for table in tables)


def print_tables(tables: Sequence[ResultTable], file: TextIO | None = None) -> None:
    """Tables on the terminal, or as plain text where there is none."""
    print_layouts([layout(table) for table in tables], file)


def print_layouts(contents: Sequence[Layout], file: TextIO | None = None) -> None:
    """Tables of text on the terminal, or as plain text where there is none."""
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=_WIDE)
    for number, content in enumerate(contents):
        if number:
            console.print()
        console.print(_terminal(content), crop=False)


def _terminal(content: Layout) -> Group:
    table = Table()
    for heading in content.headings:
        left = heading.role == "name"
        style = "dim" if heading.role == "source" else None
        title = Text(_two_lines(heading))
        table.add_column(title, justify="left" if left else "right", style=style, overflow="fold")
    for row in content.rows:
        # A Text is printed as it is; a str would be read as rich markup. Without spaces, a
        # number is not broken over two lines.
        table.add_row(
            *(
                Text(
                    printable(cell.text.replace(" \u00b1 ", "\u00b1")),
                    style="not dim bold" if cell.best else "",
                )
                for cell in row
            )
        )
    return Group(Text(content.caption), table, *map(Text, content.notes))


def _two_lines(heading: Heading) -> str:
    name, bracket, rest = heading.flat.partition(" (")
    return f"{name}\n({rest}" if bracket else name


def markdown(content: Layout) -> str:
    """A table as Markdown that ends in a line break."""
    rules = ["---" if heading.role == "name" else "---:" for heading in content.headings]
    lines = [
        text(content.caption, begins_line=True),
        "",
        _line(text(heading.flat) for heading in content.headings),
        _line(rules),
    ]
    for row in content.rows:
        cells = [(text(cell.text), cell.best) for cell in row]
        lines.append(_line(f"**{cell}**" if best else cell for cell, best in cells))
    if content.notes:
        notes = (text(note, begins_line=True) for note in content.notes)
        lines += ["", *"\\\n".join(notes).splitlines()]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


_CSV = ("protocol", "source", "classes", "group", "kind", "selected_on", "label", "is_source")
_NUMBERS = ("mean", "std", "n", "paper", "values")


def csv_lines(tables: Sequence[ResultTable]) -> str:
    """A line for each row and domain: mean and population std (percent), n, paper, all values."""
    costs = COST_FIELDS if any(table.costs for table in tables) else ()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_CSV, *_NUMBERS, *costs])
    for table in tables:
        for row in table.rows:
            for numbers in _csv_rows(table, row):
                writer.writerow([*numbers, *(_number(row.cost(name)) for name in costs)])
    return out.getvalue()


def _csv_rows(table: ResultTable, row: TableRow) -> Iterator[list[str]]:
    papers = row.paper_scores(table.classes)
    about = [table.protocol_title, " ".join(table.sources), table.classes or "", row.title]
    about += [row.kind or "", row.selected_on or ""]
    labels = [(column.label, column.is_source, column.has_paper) for column in table.columns]
    for label, is_source, has_paper in [*labels, (MEAN, False, False)]:
        spread = row.cells.get(label)
        paper = papers.get(label) if has_paper else None
        if spread is None and paper is None:
            continue
        values = spread.values if spread else ()
        yield [
            *about,
            label,
            str(is_source).lower(),
            _number(spread.mean if spread else None),
            _number(spread.std if spread else None),
            str(len(values)),
            "" if paper is None else f"{paper:.2f}",
            " ".join(map(repr, values)),
        ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
