"""The grid over three members' weights, and going on where it was stopped."""

from fractions import Fraction
from math import comb

import pytest

from revt_hf.analysis.blending import Blender
from revt_hf.analysis.plane import FinishedPoints, new_points, scan, simplex
from revt_hf.core.errors import UserError
from tests.helpers.tiny_members import data_of, rows, saved

ABOUT = {"members": [{"path": "a", "sha256": "1"}], "data": {"splits": []}}


@pytest.mark.parametrize(("corners", "steps"), [(3, 1), (3, 6), (2, 5), (4, 3)])
def test_the_grid_has_every_point_once(corners, steps):
    points = simplex(corners, steps)
    assert len(points) == len(set(points)) == comb(steps + corners - 1, corners - 1)
    assert all(sum(point) == 1 and min(point) >= 0 for point in points)
    assert all((weight * steps).denominator == 1 for point in points for weight in point)


def test_a_finer_grid_adds_what_the_coarser_one_lacks():
    coarse, fine = new_points([2, 4])
    assert (len(coarse), len(fine)) == (6, 15 - 6)
    assert not set(coarse) & set(fine)


class _Stopped(Exception):  # noqa: N818
    pass


def test_an_interrupted_scan_goes_on_and_gives_the_same(tmp_path):
    folders = [str(saved(tmp_path / str(seed), seed)) for seed in range(3)]
    data = data_of(rows(1))
    calls = []

    def stop_at_the_third():
        calls.append(1)
        if len(calls) == 3:
            raise _Stopped

    with Blender(folders) as blender:
        finished = FinishedPoints(tmp_path / "out", ABOUT)
        with pytest.raises(_Stopped):
            scan(blender, data, [1], finished, stop_at_the_third)
        again = FinishedPoints(tmp_path / "out", ABOUT)
        assert len(again.points) == 2
        levels = []
        points = scan(
            blender,
            data,
            [1, 2],
            again,
            lambda: calls.append(1),
            lambda steps, so_far: levels.append((steps, len(so_far))),
        )
        whole = scan(blender, data, [1, 2], FinishedPoints(tmp_path / "other", ABOUT))
    # Of six points two were there.
    assert len(calls) == 3 + 4
    assert levels == [(1, 3), (2, 6)]
    assert points == whole
    assert set(points[0].heads) == {"1", "2", "3"}
    assert points[0].weights == (Fraction(1), Fraction(0), Fraction(0))


@pytest.mark.parametrize(
    "other",
    [
        {**ABOUT, "members": [{"path": "a", "sha256": "2"}]},
        {**ABOUT, "data": {"splits": ["another"]}},
    ],
)
def test_other_members_and_data_have_their_own_points(tmp_path, other):
    assert FinishedPoints(tmp_path, ABOUT).path != FinishedPoints(tmp_path, other).path


def test_a_member_that_moved_is_the_same(tmp_path):
    moved = {**ABOUT, "members": [{"path": "b", "sha256": "1"}]}
    assert FinishedPoints(tmp_path, ABOUT).path == FinishedPoints(tmp_path, moved).path


def test_a_broken_file_of_points_is_named(tmp_path):
    path = FinishedPoints(tmp_path, ABOUT).path
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(UserError, match=f"{path.name} is not a file of finished points"):
        FinishedPoints(tmp_path, ABOUT)
