"""Scores, and what tables and pages compute from them."""

import pytest

from revt_hf.core.errors import UserError
from revt_hf.results.summary import (
    Score,
    ScoreBoard,
    best_rows,
    difference,
    signed,
)


def score(model: str, domain: str, miou: float, **iou: float | None) -> Score:
    return Score(model, domain, miou, dict(iou), aacc=80.0, images=5)


def test_two_scores_of_one_combination_are_refused() -> None:
    with pytest.raises(UserError, match="two scores of a on d"):
        ScoreBoard([score("a", "d", 1.0), score("a", "d", 2.0)], [], ["d"])


def test_class_means_are_over_the_domains_that_all_models_share() -> None:
    board = ScoreBoard(
        [
            score("a", "rain", 1.0, road=80.0, car=10.0, train=None),
            score("a", "night", 1.0, road=60.0, car=20.0, train=None),
            score("b", "rain", 1.0, road=90.0, car=None, train=5.0),
            score("b", "night", 1.0, road=50.0, car=40.0, train=None),
            score("a", "town", 1.0, road=1.0),
        ],
        ["town"],
        ["rain", "night"],
    )
    assert board.class_means(["a", "b"]) == {
        "road": {"a": 70.0, "b": 70.0},
        "car": {"a": 20.0, "b": 40.0},
    }


def test_differences_agree_with_the_printed_numbers() -> None:
    assert difference(45.26, 43.14) == pytest.approx(2.2)  # 45.3 - 43.1, not 2.12
    assert signed(2.2) == "+2.2"
    assert signed(-0.4) == "\u22120.4"
    assert signed(0.0) == "\u00b10.0"


def test_one_value_is_not_the_best_of_anything() -> None:
    assert best_rows([None, 4.0]) == set()
    assert best_rows([3.0, None, 4.0, 4.01]) == {2, 3}
