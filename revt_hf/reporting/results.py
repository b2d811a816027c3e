"""Evaluation results as scores for tables, and on the terminal."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from revt_hf.errors import UserError
from revt_hf.evaluation.runner import Evaluated
from revt_hf.labels import SUBSETS
from revt_hf.reporting.tables import Score, score_from_result, score_table


def scores_of(results: Sequence[Evaluated]) -> list[Score]:
    """Scores under the splits' labels, which tell two splits of one domain apart."""
    return [score_from_result({**row.to_json(), "domain": row.split.label}) for row in results]


def check_subset(classes: str | None) -> None:
    """Refuse a class subset that does not exist.

    Raises:
        UserError: it is neither None nor in ``SUBSETS``.
    """
    if classes is not None and classes not in SUBSETS:
        raise UserError(f"unknown classes '{classes}': use one of {', '.join(SUBSETS)}")


def print_scores(results: Sequence[Evaluated], classes: str | None = None) -> None:
    """A table of models and domains on the terminal, over all classes or a subset's."""
    sources = list(dict.fromkeys(row.split.label for row in results if row.split.is_source))
    scores = scores_of(results)
    title = "mIoU (%)"
    if classes is not None:
        title = f"mIoU (%) over {classes}"
        scores = [
            replace(score, miou=row.scores["subsets"][classes])
            for score, row in zip(scores, results, strict=True)
            if row.scores["subsets"][classes] is not None
        ]
    Console().print(score_table(scores, sources, title))
