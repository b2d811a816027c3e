"""The page's main table: models by domains."""

from collections.abc import Callable
from html import escape

from revt_hf.results.report import Model, Report
from revt_hf.results.summary import (
    DASH,
    ScoreBoard,
    best_rows,
    gap,
    mean_or_none,
    shown,
    signed,
)

Column = Callable[[str], float | None]


def result_table(report: Report) -> str:
    """mIoU of every model on every domain, with means, gaps and small bars.

    Returns:
        An HTML fragment: the table in a container that scrolls sideways by itself.
    """
    board = report.board()
    several = len(report.targets) > 1
    columns: list[Column] = [_on(board, domain) for domain in _domains(report)]
    styles = ["apart"] * len(report.sources) + [""] * len(report.targets)
    if several:
        columns.append(board.unseen)
        styles.append("derived")

    names = report.names()
    best = [best_rows([column(name) for name in names]) for column in columns]
    body = ""
    for kind in ("init", "member", "revt"):
        rows = []
        for model in report.models:
            if model.kind == kind:
                row = names.index(model.name)
                values = [column(model.name) for column in columns]
                marks = [row in best_of_column for best_of_column in best]
                titles = [_details(board, model.name, domain) for domain in _domains(report)]
                rows.append(_row(model, values, marks, styles, titles))
        members = report.names("member")
        if kind == "member" and len(members) > 1:
            means = [mean_or_none([column(name) for name in members]) for column in columns]
            rows.append(_row(None, means, [False] * len(means), styles, []))
        if rows:
            body += f'<tbody class="{kind}">{"".join(rows)}</tbody>'
    return (
        '<div class="scroll" role="region" tabindex="0" aria-labelledby="scores">'
        f"<table>{_head(report, board, several)}{body}</table></div>"
        f'<p class="note">mIoU in %, bars from 0 to 100. Bold: the best of a column. {DASH}: no '
        f"score{', and no mean over domains without it' if several else ''}.</p>"
    )


def _on(board: ScoreBoard, domain: str) -> Column:
    return lambda model: board.miou(model, domain)


def _domains(report: Report) -> list[str]:
    return [*report.sources, *report.targets]


def _head(report: Report, board: ScoreBoard, several: bool) -> str:
    unseen = len(report.targets) + several
    cells = "".join(
        f'<th scope="col"{_class("apart" if domain in report.sources else "")}>'
        f"{escape(domain)}<small>{_images(board, domain)}</small></th>"
        for domain in _domains(report)
    )
    if several:
        cells += '<th scope="col" class="derived">mean of unseen</th>'
    return (
        '<thead><tr><th rowspan="2" scope="col">Model</th>'
        f'<th colspan="{len(report.sources)}" scope="colgroup" class="group apart">source val</th>'
        f'<th colspan="{unseen}" scope="colgroup" class="group">'
        f"unseen domain{'s' if several else ''}</th>"
        '<th rowspan="2" scope="col" class="derived">gap<small>source \u2212 unseen</small></th>'
        f"</tr><tr>{cells}</tr></thead>"
    )


def _images(board: ScoreBoard, domain: str) -> str:
    counts = sorted(board.images(domain))
    if not counts:
        return "no score"
    # Models scored on different images are not comparable: say so rather than hide it.
    span = f"{counts[0]}\u2013{counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"{span} image{'s' if counts != [1] else ''}"


def _details(board: ScoreBoard, model: str, domain: str) -> str:
    score = board.score(model, domain)
    return "" if score is None else f"aAcc {shown(score.aacc)} %, {score.images} images"


def _row(
    model: Model | None,
    values: list[float | None],
    marks: list[bool],
    styles: list[str],
    titles: list[str],
) -> str:
    """A row of the table; without a model it is the members' mean."""
    if model is None:
        head, style = "Mean of members", "summary"
    else:
        note = f"<small>{escape(model.note)}</small>" if model.note else ""
        head, style = f"{escape(model.name)}{note}", model.kind
    titles = titles + [""] * (len(values) - len(titles))
    source = mean_or_none([v for v, name in zip(values, styles, strict=True) if name == "apart"])
    cells = "".join(
        f"<td{_class(name)}{_title(title)}>{_cell(value, mark)}</td>"
        for value, mark, name, title in zip(values, marks, styles, titles, strict=True)
    )
    return (
        f'<tr class="{style}"><th scope="row">{head}</th>{cells}'
        f'<td class="derived">{signed(gap(source, values[-1]))}</td></tr>'
    )


def _cell(value: float | None, best: bool) -> str:
    if value is None:
        return DASH
    text = f"<strong>{shown(value)}</strong>" if best else shown(value)
    return f'<span class="cell" style="--v:{value:.2f}">{text}</span>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _title(text: str) -> str:
    return f' title="{escape(text)}"' if text else ""
