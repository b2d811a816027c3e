"""The grid over the weights of three members, and resuming a scan."""

from fractions import Fraction
from math import comb

import pytest

from revt_hf.analysis.blending import Blender, HeadScore
from revt_hf.analysis.choosing import new_points, simplex
from revt_hf.analysis.landscape import FinishedPoints, PlanePoint, scan
from revt_hf.core.errors import UserError
from tests.helpers.networks import data_of, rows

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
