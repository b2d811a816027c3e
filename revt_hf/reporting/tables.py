"""Scores as a terminal table and as Markdown."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from revt_hf.reporting.summary import Score, ScoreBoard, best_rows, score_from_result, shown

__all__ = ["Score", "markdown_table", "score_from_result", "score_table"]

_MEAN = "mean of unseen"


def score_table(
    scores: Sequence[Score], sources: Sequence[str] = (), title: str = "mIoU (%)"
) -> Table:
    """mIoU (%) with a row per model and a column per domain, for the terminal.

    The source domains' columns come first and apart from the others; with several other domains
    a last column holds their mean (a dash for a model that lacks one of them). The best numbers
    of a column are bold.

    Args:
        scores: at most one per model and domain; models and domains keep their order.
        sources: the domains trained on.
        title: above the table.

    Raises:
        UserError: two scores of the same model on the same domain.
    """
    models, headers, columns = _columns(scores, sources)
    apart = {_source_header(source) for source in sources}
    table = Table(title=title)
    table.add_column("model", overflow="fold")
    for header in headers:
        table.add_column(Text(header), justify="right", style="dim" if header in apart else None)
    best = [best_rows(column) for column in columns]
    for row, model in enumerate(models):
        cells = [
            Text(shown(column[row]), style="not dim bold" if row in best[position] else "")
            for position, column in enumerate(columns)
        ]
        # A Text is printed as it is; a str would be read as rich markup.
        table.add_row(Text(model), *cells)
    return table


def markdown_table(scores: Sequence[Score], sources: Sequence[str] = ()) -> str:
    """The same table as `score_table`, as Markdown that ends in a line break.

    Raises:
        UserError: two scores of the same model on the same domain.
    """
    models, headers, columns = _columns(scores, sources)
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
    scores: Sequence[Score], sources: Sequence[str]
) -> tuple[list[str], list[str], list[list[float | None]]]:
    """Models, column headers, and per column one value per model."""
    models = list(dict.fromkeys(score.model for score in scores))
    domains = list(dict.fromkeys(score.domain for score in scores))
    targets = [domain for domain in domains if domain not in sources]
    board = ScoreBoard(scores, sources, targets)
    headers, columns = [], []
    for domain in [*(domain for domain in domains if domain in sources), *targets]:
        headers.append(_source_header(domain) if domain in sources else domain)
        columns.append([board.miou(model, domain) for model in models])
    if len(targets) > 1:
        headers.append(_MEAN)
        columns.append([board.unseen(model) for model in models])
    return models, headers, columns


def _source_header(source: str) -> str:
    return f"{source} (source)"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    special = str.maketrans({symbol: f"\\{symbol}" for symbol in "\\|*_`<[]"})
    return " ".join(text.translate(special).split())
