"""Evaluation results as scores for pages, and on the terminal."""

from collections.abc import Sequence

from revt_hf.evaluation.result import Result
from revt_hf.results.formats import print_tables
from revt_hf.results.matrix import build_tables
from revt_hf.results.rows import TableOptions
from revt_hf.results.summary import Score


def scores_of(results: Sequence[Result]) -> list[Score]:
    """Scores under the splits' labels, which tell two splits of one domain apart."""
    return [
        Score(result.model, one.label, one.miou, one.iou, one.aacc, one.images)
        for result in results
        for one in result.scores
    ]


def print_scores(results: Sequence[Result], classes: str | None = None) -> None:
    """A table of models and domains on the terminal, over all classes or a subset's."""
    print_tables(build_tables(results, TableOptions(classes=classes)))
