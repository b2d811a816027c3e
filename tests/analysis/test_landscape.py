"""Lines through the weights and their barriers; the grid over three members, resumed."""

from fractions import Fraction
from math import comb

import pytest

from revt_hf.analysis.blending import Blender, HeadScore, score_heads
from revt_hf.analysis.choosing import new_points, simplex
from revt_hf.analysis.landscape import (
    INTERPOLATED,
    FinishedPoints,
    PlanePoint,
    barrier,
    paths,
    scan,
)
from revt_hf.core.errors import UserError
from tests.helpers.networks import data_of, rows, tiny_model

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(
    ("losses", "height", "at"),
    [
        ([1.0, 1.5, 2.0], 0.0, 0.0),
        ([1.0, 3.0, 2.0], 1.5, 0.5),
        ([2.0, 2.0, 1.0, 1.0, 1.0], 0.25, 0.25),
        # Below both ends everywhere.
        ([1.0, 0.2, 1.0], 0.0, 0.0),
        ([1.0, float("nan"), 1.0], float("inf"), 0.5),
    ],
)
def test_a_barrier_rises_above_the_line_between_the_ends(losses, height, at):
    # A drop of mIoU is a barrier in the same way.
    points = [
        {"at": step / (len(losses) - 1), "loss": loss, "mIoU": 90 - 10 * loss}
        for step, loss in enumerate(losses)
    ]
    found = barrier(points)
    assert (found["loss"], found["loss_at"]) == (pytest.approx(height), at)
    assert (found["mIoU"], found["mIoU_at"]) == (pytest.approx(10 * height), at)


def test_equal_members_have_no_barrier_and_a_line_needs_two_points(members):
    with Blender([members[0], members[0]]) as blender:
        lines = paths(blender, data_of(rows(1)), 4, interpolate_head=True)
        with pytest.raises(UserError, match="--points 1"):
            paths(blender, data_of(rows(1)), 1)
    assert [line["head"] for line in lines] == [1, 2, INTERPOLATED]
    for line in lines:
        first, *_, last = points = line["points"]
        assert [point["at"] for point in points] == pytest.approx([0, 1 / 3, 2 / 3, 1])
        assert line["barrier"]["loss"] == pytest.approx(0, abs=1e-5)
        assert {**first, "at": 1} == last


def test_lines_end_at_the_members_and_the_initial_weights(members):
    first, second, init = (tiny_model(seed) for seed in range(3))
    data = data_of(rows(1))
    calls = []
    with Blender(members[:2], str(members[2]), init_head=True) as blender:
        lines = paths(blender, data, 2, True, lambda: calls.append(1))
    assert len(calls) == 3 * 2
    found = {(line["from"], line["to"], line["head"]): line["points"] for line in lines}
    ends = {
        (1, 2, 1): ((first, first), (second, first)),
        (1, 2, 2): ((first, second), (second, second)),
        (1, 2, INTERPOLATED): ((first, first), (second, second)),
        ("init", 1, 1): ((init, first), (first, first)),
        ("init", 1, INTERPOLATED): ((init, init), (first, first)),
        ("init", 2, 2): ((init, second), (second, second)),
        ("init", 2, INTERPOLATED): ((init, init), (second, second)),
    }
    assert found.keys() == ends.keys()
    for line, models in ends.items():
        for score, (encoder, head) in zip(found[line], models, strict=True):
            expected = score_heads(encoder, {"head": head.decode_head}, data)["head"]
            assert score["loss"] == pytest.approx(expected.loss, rel=1e-5)


ABOUT = {"members": [{"path": "a", "sha256": "1"}], "data": {"splits": []}}


@pytest.mark.parametrize(("corners", "steps"), [(3, 1), (3, 6), (2, 5), (4, 3)])
def test_the_grid_has_every_point_once(corners, steps):
    points = simplex(corners, steps)
    assert len(points) == len(set(points)) == comb(steps + corners - 1, corners - 1)
    assert all(sum(point) == 1 and min(point) >= 0 for point in points)
    assert all((weight * steps).denominator == 1 for point in points for weight in point)
    # A finer grid adds what the coarser one lacks.
    coarse, fine = new_points([steps, 2 * steps], corners)
    assert coarse == points
    assert sorted([*coarse, *fine]) == sorted(simplex(corners, 2 * steps))


class _Stopped(Exception):  # noqa: N818
    pass


def test_an_interrupted_scan_resumes_with_the_same_result(members, tmp_path):
    data = data_of(rows(1))
    calls = []

    def stop_at_the_third():
        calls.append(1)
        if len(calls) == 3:
            raise _Stopped

    with Blender(members) as blender:
        finished = FinishedPoints(tmp_path / "out", ABOUT)
        with pytest.raises(_Stopped):
            list(scan(blender, data, [1], finished, stop_at_the_third))
        again = FinishedPoints(tmp_path / "out", ABOUT)
        assert len(again.points) == 2
        levels = [
            (steps, list(points))
            for steps, points in scan(blender, data, [1, 2], again, lambda: calls.append(1))
        ]
        *_, whole = scan(blender, data, [1, 2], FinishedPoints(tmp_path / "other", ABOUT))
    # Two of six points were finished.
    assert len(calls) == 3 + 4
    assert [(steps, len(points)) for steps, points in levels] == [(1, 3), (2, 6)]
    assert levels[-1] == whole
    points = levels[0][1]
    assert set(points[0].heads) == {"1", "2", "3"}
    assert points[0].weights == (Fraction(1), Fraction(0), Fraction(0))


def test_points_belong_to_weights_and_data_not_to_paths(tmp_path):
    path = FinishedPoints(tmp_path, ABOUT).path
    moved = {**ABOUT, "members": [{"path": "b", "sha256": "1"}]}
    changed = {**ABOUT, "members": [{"path": "a", "sha256": "2"}]}
    other = {**ABOUT, "data": {"splits": ["another"]}}
    assert FinishedPoints(tmp_path, moved).path == path
    assert len({path, *(FinishedPoints(tmp_path, about).path for about in (changed, other))}) == 3


def test_a_diverged_point_is_kept_and_a_damaged_file_is_named(tmp_path):
    finished = FinishedPoints(tmp_path, ABOUT)
    score = HeadScore(loss=float("nan"), miou=5.0)
    finished.add(PlanePoint(weights=(Fraction(1, 3),) * 3, heads={"1": score}))
    (kept,) = FinishedPoints(tmp_path, ABOUT).points.values()
    assert kept.heads["1"].loss != kept.heads["1"].loss
    assert kept.weights == (Fraction(1, 3),) * 3
    for text in ("{}", "[", '{"points": [{"weights": ["1/0"], "heads": {}}]}'):
        finished.path.write_text(text)
        with pytest.raises(UserError, match=f"{finished.path.name} is not a file of finished"):
            FinishedPoints(tmp_path, ABOUT)
