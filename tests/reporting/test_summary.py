"""Score tables for the terminal and for Markdown."""

import io
import math
import re
from typing import Literal

import pytest
from rich.console import Console
from rich.table import Table

from revt_hf.errors import UserError
from revt_hf.reporting.summary import ScoreBoard, best_rows, difference, signed
from revt_hf.reporting.tables import Score, markdown_table, score_from_result, score_table


def score(model: str, domain: str, miou: float, **iou: float | None) -> Score:
    return Score(model, domain, miou, dict(iou), aacc=80.0, images=5)


SCORES = [
    score("first", "town", 70.0),
    score("first", "rain", 40.0),
    score("first", "night", 30.04),
    score("second", "rain", 44.0),
    score("second", "night", 29.96),
    score("second", "town", 60.0),
    score("third", "rain", 10.0),
]


def printed(table: Table, colour: bool = False) -> str:
    out = io.StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    Console(file=out, width=150, force_terminal=colour, color_system=system).print(table)
    return out.getvalue()


def cells(markdown: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown.splitlines()
    ]


def test_markdown_has_source_first_means_bests_and_dashes() -> None:
    table = cells(markdown_table(SCORES, ["town"]))
    assert table[0] == ["model", "town (source)", "rain", "night", "mean of unseen"]
    assert table[2] == ["first", "**70.0**", "40.0", "**30.0**", "35.0"]
    # Both are 30.0 as printed, so both are best.
    assert table[3] == ["second", "60.0", "**44.0**", "**30.0**", "**37.0**"]
    assert table[4] == ["third", "–", "10.0", "–", "–"]  # noqa: RUF001


def test_mean_column_only_with_several_targets() -> None:
    one = [entry for entry in SCORES if entry.domain != "night"]
    assert "mean" not in markdown_table(one, ["town"])
    assert "mean of unseen" in markdown_table(one)


def test_every_domain_is_a_target_without_a_source() -> None:
    table = cells(markdown_table(SCORES))
    assert table[0] == ["model", "town", "rain", "night", "mean of unseen"]
    assert table[2][-1] == "**46.7**"


def test_markdown_escapes_names() -> None:
    table = markdown_table([score("a|b*", "x_y", 1.0)])
    assert "| a\\|b\\* |" in table
    assert "x\\_y" in table


def test_terminal_table_shows_the_same_numbers() -> None:
    text = printed(score_table(SCORES, ["town"]))
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    numbers = [cell.strip() for cell in rows["second"].split("│")[2:-1]]
    assert numbers == ["60.0", "44.0", "30.0", "37.0"]
    assert [cell.strip() for cell in rows["third"].split("│")[2:-1]] == ["–", "10.0", "–", "–"]  # noqa: RUF001
    assert "town (source)" in text


def test_terminal_table_marks_best_and_sets_the_source_apart() -> None:
    text = printed(score_table(SCORES, ["town"]), colour=True)
    assert "\x1b[1m44.0\x1b[0m" in text
    assert "\x1b[1m40.0" not in text
    assert re.search(r"\x1b\[1m +70\.0", text)
    assert re.search(r"\x1b\[2m +60\.0", text)
    assert not re.search(r"\x1b\[2m +44\.0", text)


def test_terminal_table_prints_markup_as_it_is() -> None:
    assert "[red]x[/red]" in printed(score_table([score("[red]x[/red]", "d", 5.0)]))


def test_two_scores_of_one_combination_are_refused() -> None:
    with pytest.raises(UserError, match="two scores of a on d"):
        markdown_table([score("a", "d", 1.0), score("a", "d", 2.0)])


def test_score_from_result() -> None:
    result = {
        "mIoU": 41.5,
        "IoU": {"road": 83, "train": None},
        "aAcc": 90.25,
        "images": 12,
        "protocol": {"crop": 512},
        "model": "m",
        "domain": "d",
    }
    assert score_from_result(result) == Score(
        "m", "d", 41.5, {"road": 83.0, "train": None}, 90.25, 12
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mIoU", None, "without mIoU"),
        ("mIoU", "much", "m on d"),
        ("mIoU", 141.5, "not in 0..100"),
        ("mIoU", math.nan, "not in 0..100"),
        ("IoU", {"road": -1.0}, "IoU of road"),
        ("IoU", [1.0], "m on d"),
        ("aAcc", 101, "aAcc"),
        ("images", 0, "no image"),
    ],
)
def test_bad_results_are_refused(key: str, value: object, message: str) -> None:
    result = {"mIoU": 1.0, "IoU": {}, "aAcc": 2.0, "images": 3, "model": "m", "domain": "d"}
    with pytest.raises(UserError, match=message):
        score_from_result({**result, key: value})


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
