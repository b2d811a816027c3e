"""Evaluation results as scores for tables, and on the terminal."""

from collections.abc import Sequence

from rich.console import Console

from revt_hf.evaluation.runner import Evaluated
from revt_hf.reporting.tables import Score, score_from_result, score_table


def scores_of(results: Sequence[Evaluated]) -> list[Score]:
    """Scores under the splits' labels, which tell two splits of one domain apart."""
    return [score_from_result({**row.to_json(), "domain": row.split.label}) for row in results]


def print_scores(results: Sequence[Evaluated]) -> None:
    """A table of models and domains on the terminal."""
    source = next((row.split.label for row in results if row.split.is_source), None)
    Console().print(score_table(scores_of(results), source))
