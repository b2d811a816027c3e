"""Evaluation results as scores for pages, and on the terminal."""

from collections.abc import Sequence
from pathlib import Path

from revt_hf.evaluation.scoring import Evaluated
from revt_hf.results.collect import measurements_of
from revt_hf.results.formats import print_tables
from revt_hf.results.matrix import build_tables
from revt_hf.results.rows import TableOptions
from revt_hf.results.summary import Score, score_from_result


def scores_of(results: Sequence[Evaluated]) -> list[Score]:
    """Scores under the splits' labels, which tell two splits of one domain apart."""
    return [score_from_result({**row.to_json(), "domain": row.split.label}) for row in results]


def print_scores(results: Sequence[Evaluated], classes: str | None = None) -> None:
    """A table of models and domains on the terminal, over all classes or a subset's."""
    measurements = measurements_of([row.to_json() for row in results], Path("these results"))
    print_tables(build_tables(measurements, TableOptions(classes=classes)))
