"""Lines through the weights and their barriers."""

import pytest

from revt_hf.analysis.blending import Blender, score_heads
from revt_hf.analysis.landscape import INTERPOLATED, barrier, paths
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
        assert [point["at"] for point in points] == [
            0,
            pytest.approx(1 / 3),
            pytest.approx(2 / 3),
            1,
        ]
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
