"""Scores as a terminal table and as Markdown."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from revt_hf.reporting.summary import Score, ScoreBoard, best_rows, score_from_result, shown

__all__ = ["Score", "markdown_table", "score_from_result", "score_table"]

_MEAN = "mean of unseen"


def score_table(scores: Sequence[Score], source_domain: str | None = None) -> Table:
    """mIoU (%) with a row per model and a column per domain, for the terminal.

    The source domain's column comes first and apart from the others; with several other domains
    a last column holds their mean (a dash for a model that lacks one of them). The best numbers
    of a column are bold.

    Args:
        scores: at most one per model and domain; models and domains keep their order.
        source_domain: the domain trained on; None if none of the domains is it.

    Raises:
        UserError: two scores of the same model on the same domain.
    """
    models, headers, columns = _columns(scores, source_domain)
    has_source = bool(headers) and headers[0] == _source_header(source_domain)
    table = Table(title="mIoU (%)")
    table.add_column("model", overflow="fold")
    for position, header in enumerate(headers):
        apart = "dim" if has_source and position == 0 else None
        table.add_column(Text(header), justify="right", style=apart)
    best = [best_rows(column) for column in columns]
    for row, model in enumerate(models):
        cells = [
            Text(shown(column[row]), style="not dim bold" if row in best[position] else "")
            for position, column in enumerate(columns)
        ]
        # A Text is printed as it is; a str would be read as rich markup.
        table.add_row(Text(model), *cells)
    return table


def markdown_table(scores: Sequence[Score], source_domain: str | None = None) -> str:
    """The same table as `score_table`, as Markdown that ends in a line break.

    Raises:
        UserError: two scores of the same model on the same domain.
    """
    models, headers, columns = _columns(scores, source_domain)
    best = [best_rows(column) for column in columns]
    lines = [
        _markdown_row(["model", *map(_escape, headers)]),
        _markdown_row(["---", *["---:"] * len(headers)]),
    ]
    for row, model in enumerate(models):
        cells = [
            f"**{shown(column[row])}**" if row in best[position] else shown(column[row])
            for position, column in enumerate(columns)
        ]
        lines.append(_markdown_row([_escape(model), *cells]))
    return "\n".join(lines) + "\n"


def _columns(
    scores: Sequence[Score], source_domain: str | None
) -> tuple[list[str], list[str], list[list[float | None]]]:
    """Models, column headers, and per column one value per model."""
    models = list(dict.fromkeys(score.model for score in scores))
    domains = list(dict.fromkeys(score.domain for score in scores))
    targets = [domain for domain in domains if domain != source_domain]
    board = ScoreBoard(scores, source_domain, targets)
    headers, columns = [], []
    if source_domain in domains:
        headers.append(_source_header(source_domain))
        columns.append([board.source(model) for model in models])
    for domain in targets:
        headers.append(domain)
        columns.append([board.miou(model, domain) for model in models])
    if len(targets) > 1:
        headers.append(_MEAN)
        columns.append([board.unseen(model) for model in models])
    return models, headers, columns


def _source_header(source_domain: str | None) -> str:
    return f"{source_domain} (source)"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    special = str.maketrans({symbol: f"\\{symbol}" for symbol in "\\|*_`<[]"})
    return " ".join(text.translate(special).split())
