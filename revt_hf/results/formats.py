"""Tables for the terminal, as Markdown, LaTeX, CSV and HTML."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, TextIO

import jinja2
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from revt_hf.core.errors import UserError, printable, say
from revt_hf.evaluation.result import Result
from revt_hf.results.comparison import PUBLISHED_FIELDS
from revt_hf.results.layout import (
    CALIBRATIONS,
    COSTS,
    Span,
    TableLayout,
    calibration_layout,
    cost_layout,
)
from revt_hf.results.markdown import text
from revt_hf.results.tables import TableOptions, build_tables

# Columns of text in a file or a pipe, where nothing needs to be folded.
_WIDE = 1000
_CSV = (
    *("protocol", "source", "classes", "group", "kind", "selected_on", "label", "is_source"),
    *("mean", "std", "n", "paper", "values"),
)
_LATEX = {
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # At the start of a row these would be arguments of the end of the line before it.
    "[": "{[}",
    "*": "{*}",
    "\u00b1": r"$\pm$",
    "\u2013": "--",
    "\u2020": r"$^\dagger$",
    "\u2021": r"$^\ddagger$",
}


class TableFormat(StrEnum):
    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    html = "html"


def table_format(name: str) -> TableFormat:
    if name not in list(TableFormat):
        raise UserError(f"--format '{name}': use one of {', '.join(TableFormat)}")
    return TableFormat(name)


def formatted(tables: Sequence[TableLayout], chosen: TableFormat) -> str:
    """Tables as text that ends in a line break."""
    if chosen is TableFormat.csv:
        return csv_lines(tables)
    if chosen is TableFormat.terminal:
        out = io.StringIO()
        print_layouts(tables, out)
        return out.getvalue()
    write = {TableFormat.latex: latex, TableFormat.html: html, TableFormat.markdown: markdown}
    return "\n".join(map(write[chosen], tables))


def print_scores(results: Sequence[Result], classes: str | None = None) -> None:
    """Print a table of models and domains, over all classes or a subset's, and what they cost."""
    tables = build_tables(results, TableOptions(classes=classes))
    costs = {one.model: one.cost for one in results if one.cost is not None}
    calibration = calibration_layout(results)
    tables += [calibration] if calibration.rows else []
    print_layouts([*tables, *([cost_layout(costs)] if costs else [])])
    for one in results:
        for score in one.scores:
            if score.lost is not None:
                pixels = f"{score.lost:.1f} % of the labelled pixels have predictions"
                say(f"{one.row} on {score.label}: {pixels} without a counterpart.")


def print_layouts(contents: Sequence[TableLayout], file: TextIO | None = None) -> None:
    """Print tables on the terminal, or as plain text where there is none."""
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=_WIDE)
    for number, content in enumerate(contents):
        if number:
            console.print()
        console.print(_terminal(content), crop=False)


def _terminal(content: TableLayout) -> Group:
    table = Table()
    for heading in content.headings:
        left = heading.role == "name"
        style = "dim" if heading.role == "source" else None
        # What is in brackets is below the name.
        title = Text(heading.flat.replace(" (", "\n(", 1))
        table.add_column(title, justify="left" if left else "right", style=style, overflow="fold")
    for row in content.rows:
        # A Text is printed as it is; a str would be read as rich markup. Without spaces, a
        # number is not broken over two lines.
        shown = [printable(cell.text.replace(" \u00b1 ", "\u00b1")) for cell in row]
        styles = ["not dim bold" if cell.best else "" for cell in row]
        table.add_row(*map(Text, shown, styles))
    return Group(Text(content.caption), table, *map(Text, content.notes))


def markdown(content: TableLayout) -> str:
    rules = ["---" if heading.role == "name" else "---:" for heading in content.headings]
    lines = [
        text(content.caption, begins_line=True),
        "",
        _markdown_line(text(heading.flat) for heading in content.headings),
        _markdown_line(rules),
    ]
    for row in content.rows:
        cells = [(text(cell.text), cell.best) for cell in row]
        lines.append(_markdown_line(f"**{cell}**" if best else cell for cell, best in cells))
    if content.notes:
        notes = (text(note, begins_line=True) for note in content.notes)
        lines += ["", *"\\\n".join(notes).splitlines()]
    return "\n".join(lines) + "\n"


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def latex(content: TableLayout) -> str:
    """A table for LaTeX with the package booktabs; ends in a line break."""
    heads = content.headings
    columns = "".join("l" if heading.role == "name" else "r" for heading in heads)
    areas, rules = _latex_spans(content.spans("area"))
    names, _ = _latex_spans(content.spans("role", "name"))
    parts = [_latex_line(_tex(heading.part) for heading in heads)] if content.has_parts else []
    body = (
        _latex_line(rf"\textbf{{{_tex(c.text)}}}" if c.best else _tex(c.text) for c in row)
        for row in content.rows
    )
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(content.caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *(areas, rules, names, *parts),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {_tex(note)}" for note in content.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_spans(spans: Sequence[Span]) -> tuple[str, str]:
    """A line of headings over several columns each, and the rules below them."""
    column, cells, rules = 1, [], []
    for span in spans:
        side = "l" if column == 1 else "c"
        cells.append(rf"\multicolumn{{{span.columns}}}{{{side}}}{{{_tex(span.text)}}}")
        if span.text:
            rules.append(rf"\cmidrule(lr){{{column}-{column + span.columns - 1}}}")
        column += span.columns
    return _latex_line(cells), " ".join(rules)


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex(value: str) -> str:
    return "".join(_LATEX.get(symbol, symbol) for symbol in " ".join(value.split()))


def html(content: TableLayout) -> str:
    return render("fragment.html.jinja", content=content)


def render(template: str, **values: Any) -> str:
    return templates("revt_hf.results").get_template(template).render(**values)


@cache
def templates(package: str, escape: Callable[[Any], str] | None = None) -> jinja2.Environment:
    """The templates of a package, in which ``escape``, or else HTML's rules, escape every value."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=escape is None,  # noqa: S701
        finalize=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def csv_lines(tables: Sequence[TableLayout]) -> str:
    records = [record for table in tables for record in table.records]
    out = io.StringIO()
    roles = {heading.role for table in tables for heading in table.headings}
    costs = [name for name, *_ in COSTS if "cost" in roles]
    published = PUBLISHED_FIELDS if any("published" in one for one in records) else ()
    fields = [
        *_CSV,
        *published,
        *costs,
        *(name for name, *_ in CALIBRATIONS if "calibration" in roles),
    ]
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()
