"""Lines through the weights and their barriers."""

import pytest

from revt_hf.analysis.blending import Blender, HeadScore, score_heads
from revt_hf.analysis.path import INTERPOLATED, Line, paths
from revt_hf.core.errors import UserError
from tests.helpers.tiny_members import data_of, rows, saved, tiny_model

pytestmark = pytest.mark.numeric


def _score(loss, miou):
    return HeadScore(loss=loss, miou=miou)


def _line(losses, mious=None):
    mious = mious or [50.0] * len(losses)
    points = tuple(place / (len(losses) - 1) for place in range(len(losses)))
    return Line(1, 2, 1, points, tuple(map(_score, losses, mious)))


@pytest.mark.parametrize(
    ("losses", "height", "at"),
    [
        ([1.0, 1.5, 2.0], 0.0, 0.0),
        ([1.0, 3.0, 2.0], 1.5, 0.5),
        ([2.0, 2.0, 1.0, 1.0, 1.0], 0.25, 0.25),
        # Lower than the ends all along.
        ([1.0, 0.2, 1.0], 0.0, 0.0),
        ([1.0, float("nan"), 1.0], float("inf"), 0.5),
    ],
)
def test_a_barrier_is_what_stands_above_the_line_between_the_ends(losses, height, at):
    barrier = _line(losses).barrier()
    assert (barrier.loss, barrier.loss_at) == (pytest.approx(height), at)


def test_a_drop_of_miou_is_measured_against_its_own_line():
    barrier = _line([1.0] * 3, [40.0, 35.0, 50.0]).barrier()
    assert (barrier.miou, barrier.miou_at) == (10.0, 0.5)
    assert barrier.loss == 0


def test_between_equal_members_there_is_no_barrier(tmp_path):
    member = str(saved(tmp_path / "a", 0))
    with Blender([member, member]) as blender:
        lines = paths(blender, data_of(rows(1)), 4, interpolate_head=True)
    assert [line.head for line in lines] == [1, 2, INTERPOLATED]
    for line in lines:
        assert line.points == (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
        assert line.barrier().loss == pytest.approx(0, abs=1e-5)
        assert line.scores[0] == line.scores[-1]


def test_lines_end_at_the_members_and_the_start(tmp_path):
    folders = [str(saved(tmp_path / str(seed), seed)) for seed in range(3)]
    first, second, start = (tiny_model(seed) for seed in range(3))
    data = data_of(rows(1))
    calls = []
    with Blender(folders[:2], folders[2], init_head=True) as blender:
        lines = paths(blender, data, 2, True, lambda: calls.append(1))
    assert len(calls) == 3 * 2
    found = {(line.first, line.last, line.head): line.scores for line in lines}

    def scored(encoder, head):
        return score_heads(encoder, {"head": head.decode_head}, data)["head"]

    ends = {
        (1, 2, 1): ((first, first), (second, first)),
        (1, 2, 2): ((first, second), (second, second)),
        (1, 2, INTERPOLATED): ((first, first), (second, second)),
        (0, 1, 1): ((start, first), (first, first)),
        (0, 1, INTERPOLATED): ((start, start), (first, first)),
        (0, 2, 2): ((start, second), (second, second)),
        (0, 2, INTERPOLATED): ((start, start), (second, second)),
    }
    assert found.keys() == ends.keys()
    for line, models in ends.items():
        for score, (encoder, head) in zip(found[line], models, strict=True):
            assert score.loss == pytest.approx(scored(encoder, head).loss, rel=1e-5)


def test_one_point_is_no_way(tmp_path):
    member = str(saved(tmp_path / "a", 0))
    with Blender([member, member]) as blender, pytest.raises(UserError, match="--points 1"):
        paths(blender, data_of(rows(1)), 1)
