"""Tables of results as LaTeX and as HTML."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby

from revt_hf.results.layout import Cell, Heading, Layout

_LATEX = {
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # At the start of a row these would be arguments of the line's end before it.
    "[": "{[}",
    "*": "{*}",
    "\u00b1": r"$\pm$",
    "\u2013": "--",
    "\u2020": r"$^\dagger$",
    "\u2021": r"$^\ddagger$",
}


def latex(content: Layout) -> str:
    """A table for LaTeX with the package booktabs; ends in a line break."""
    heads = content.headings
    columns = "".join("l" if heading.role == "name" else "r" for heading in heads)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(content.caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_latex_head(heads),
        r"\midrule",
        *(_latex_line(map(_latex_cell, row)) for row in content.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {_tex(note)}" for note in content.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def html(content: Layout) -> str:
    """A table as a fragment of HTML with its own style; ends in a line break."""
    style = files("revt_hf.results").joinpath("table.css").read_text(encoding="utf-8")
    head = "".join(f"<tr>{''.join(cells)}</tr>\n" for cells in _html_head(content.headings))
    body = "".join(
        f"<tr>{''.join(_html_row(content.headings, row))}</tr>\n" for row in content.rows
    )
    notes = "".join(f"<p>{escape(note)}</p>\n" for note in content.notes)
    return (
        f'<figure class="revt-table">\n<style>\n{style}</style>\n'
        f"<figcaption>{escape(content.caption)}</figcaption>\n"
        f"<div>\n<table>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
        f"{notes}</figure>\n"
    )


def _areas(headings: Sequence[Heading]) -> list[list[Heading]]:
    """Neighbours below the same area, such as all targets."""
    return [list(group) for _, group in groupby(headings, key=lambda heading: heading.area)]


def _names(headings: Sequence[Heading]) -> list[list[Heading]]:
    """Neighbours of the same name: the paper's and our numbers on a domain."""
    pairs = groupby(headings, key=lambda heading: (heading.role, heading.name))
    return [list(group) for _, group in pairs]


def _has_parts(headings: Sequence[Heading]) -> bool:
    return any(heading.part for heading in headings)


def _latex_head(headings: Sequence[Heading]) -> Iterator[str]:
    yield from _latex_spans([(group[0].area, len(group)) for group in _areas(headings)], True)
    names = [(group[0].name, len(group)) for group in _names(headings)]
    yield from _latex_spans(names, False)
    if _has_parts(headings):
        yield _latex_line(_tex(heading.part) for heading in headings)


def _latex_spans(spans: Sequence[tuple[str, int]], ruled: bool) -> Iterator[str]:
    """A line of headings over several columns each, and rules below them."""
    column, cells, rules = 1, [], []
    for text, width in spans:
        side = "l" if column == 1 else "c"
        cells.append(rf"\multicolumn{{{width}}}{{{side}}}{{{_tex(text)}}}")
        if text:
            rules.append(rf"\cmidrule(lr){{{column}-{column + width - 1}}}")
        column += width
    yield _latex_line(cells)
    if ruled:
        yield " ".join(rules)


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: Cell) -> str:
    return rf"\textbf{{{_tex(cell.text)}}}" if cell.best else _tex(cell.text)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(symbol, symbol) for symbol in " ".join(text.split()))


def _html_head(headings: Sequence[Heading]) -> Iterator[list[str]]:
    parts = _has_parts(headings)
    tall = f' rowspan="{3 if parts else 2}"'
    first = []
    for group in _areas(headings):
        if group[0].area:
            first.append(
                f'<th scope="colgroup" class="{group[0].role}" colspan="{len(group)}">'
                f"{escape(group[0].area)}</th>"
            )
        else:
            first += [_th(heading, heading.name, tall) for heading in group]
    yield first
    low = ' rowspan="2"' if parts else ""
    yield [
        _th(group[0], group[0].name, f' colspan="{len(group)}"' if group[0].part else low)
        for group in _names(headings)
        if group[0].area
    ]
    if parts:
        yield [_th(heading, heading.part) for heading in headings if heading.part]


def _th(heading: Heading, text: str, span: str = "") -> str:
    return f'<th scope="col" class="{heading.role}"{span}>{escape(text)}</th>'


def _html_row(headings: Sequence[Heading], row: Sequence[Cell]) -> Iterator[str]:
    for heading, cell in zip(headings, row, strict=True):
        text = f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)
        if heading.role == "name":
            yield f'<th scope="row" class="name">{text}</th>'
        else:
            paper = " paper" if heading.part == "paper" else ""
            yield f'<td class="{heading.role}{paper}">{text}</td>'
