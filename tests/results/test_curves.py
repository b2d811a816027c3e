"""`revt curves`: mIoU over severity, members against merges."""

import json

import numpy as np
import pytest
from PIL import Image

from revt_hf.evaluation.result import read_results, write_results
from revt_hf.results.curves import ALL, MEMBERS, build_curves, draw_curves
from tests.helpers.command_line import refused, revt
from tests.helpers.made_up_results import evaluated, result, score, written


def _rows(scores, clean=70.0):
    """Rows of a network: ``fog-3`` -> mIoU, and of the split as it is."""
    rows = [score("town/val", clean)]
    return rows + [
        score(f"town-{name}/val", miou, domain="corruptions", is_source=False)
        for name, miou in scores.items()
    ]


def _network(model, scores, clean=70.0, **values):
    return result(model, {}, scores=_rows(scores, clean), **values)


# Members on fog 1 and 3: 60 and 50, 64 and 40; on rain 1 and 3: 50, 30 and 54, 34.
MEMBERS_FOUND = [
    _network("base/0", {"fog-1": 60.0, "fog-3": 50.0, "rain-1": 50.0, "rain-3": 30.0}),
    _network("pixmix/0", {"fog-1": 64.0, "fog-3": 40.0, "rain-1": 54.0, "rain-3": 34.0}, 74.0),
]
REVT = _network(
    "revt/0", {"fog-1": 66.0, "fog-3": 55.0}, 71.0, group="ReVT {1,4,6}", kind="merge", seed=0
)


def _curves(tmp_path, *evaluations, **how):
    return build_curves(read_results(written(tmp_path / "r", *evaluations)), **how)


def _one(curves, networks, corruption):
    (found,) = [c for c in curves.curves if (c.networks, c.corruption) == (networks, corruption)]
    return found


def test_members_are_one_line_and_each_merge_another(tmp_path):
    curves = _curves(tmp_path, *MEMBERS_FOUND, REVT)
    fog = _one(curves, MEMBERS, "fog")
    assert fog.of == "town/val"
    assert {s: spread.values for s, spread in fog.points.items()} == {
        0: (70.0, 74.0),
        1: (60.0, 64.0),
        3: (50.0, 40.0),
    }
    assert (fog.points[3].mean, fog.points[3].std) == (45.0, 5.0)
    merged = _one(curves, "ReVT {1,4,6}", "fog")
    assert [spread.mean for spread in merged.points.values()] == [71.0, 66.0, 55.0]
    assert curves.protocol == "paper"
    points = _one(curves, MEMBERS, ALL).points
    # (60 + 50) / 2 and (64 + 54) / 2; (50 + 30) / 2 and (40 + 34) / 2
    assert {s: spread.values for s, spread in points.items()} == {
        0: (70.0, 74.0),
        1: (55.0, 59.0),
        3: (40.0, 37.0),
    }
    # One kind is no mean of several.
    assert [c.corruption for c in curves.curves if c.networks == "ReVT {1,4,6}"] == ["fog"]


def test_the_mean_of_all_leaves_out_what_a_kind_lacks(tmp_path):
    network = _network("base/0", {"fog-1": 60.0, "fog-2": 55.0, "rain-1": 50.0})
    points = _one(_curves(tmp_path, network), MEMBERS, ALL).points
    assert {s: spread.values for s, spread in points.items()} == {0: (70.0,), 1: (55.0,)}


def test_results_of_evaluate_and_compact_ones_are_read_alike(tmp_path):
    one = evaluated("a", _rows({"fog-1": 60.0}), protocol={"max_size": None})
    (path,) = written(tmp_path / "r", one)
    found = read_results([path])
    curves = build_curves(found)
    assert _one(curves, "a", "fog").points[1].values == (60.0,)
    assert curves.protocol == "native"
    again = tmp_path / "again.json"
    write_results(again, [one.compact() for one in found])
    assert build_curves(read_results([again])) == curves


def test_the_score_without_corruption_may_come_from_another_file(tmp_path):
    clean, *corrupted = _rows({"fog-1": 60.0})
    parts = [result("base/0", {}, scores=rows) for rows in ([clean], corrupted)]
    points = _one(_curves(tmp_path, *parts), MEMBERS, "fog").points
    assert {s: spread.mean for s, spread in points.items()} == {0: 70.0, 1: 60.0}


def test_a_subset_of_classes(tmp_path):
    points = _one(_curves(tmp_path, REVT, classes="synthia16"), "ReVT {1,4,6}", "fog").points
    assert [spread.mean for spread in points.values()] == [72.0, 67.0, 56.0]


def test_the_command_writes_figure_and_numbers(capsys, tmp_path):
    written(tmp_path / "r", *MEMBERS_FOUND, REVT)
    figure, numbers = tmp_path / "curves.png", tmp_path / "curves.json"
    code, out, error = revt(capsys, "curves", tmp_path / "r", "--output", figure, "--json", numbers)
    assert code == 0, error
    assert out == f"4 curves: {figure}\n"
    quiet = ("--output", tmp_path / "quiet.png", "--quiet")
    assert revt(capsys, "curves", tmp_path / "r", *quiet) == (0, "", "")
    found = json.loads(numbers.read_text())
    assert (found["protocol"], found["classes"]) == ("paper", None)
    point = found["curves"][0]["points"][2]
    assert point == {"severity": 3, "mIoU": 45.0, "std": 5.0, "values": [50.0, 40.0]}
    with Image.open(figure) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # The merge's line and the members' are there.
    for colour in ((0x2F, 0x55, 0xD4), (0xA9, 0xB2, 0xBE)):
        assert (np.abs(pixels - colour).max(-1) < 3).sum() > 100


def test_splits_and_kinds_have_panels_of_their_own(tmp_path):
    other = [score("city-fog-1/val", 50.0, domain="corruptions"), *_rows({"fog-1": 60.0})]
    curves = _curves(tmp_path, result("base/0", {}, scores=other))
    assert [(c.of, c.corruption) for c in curves.curves] == [
        ("city/val", "fog"),
        ("town/val", "fog"),
    ]
    # city/val itself was not scored.
    assert [list(curve.points) for curve in curves.curves] == [[1], [0, 1]]
    draw_curves(curves, tmp_path / "two.png")
    draw_curves(_curves(tmp_path, REVT), tmp_path / "one.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.width > one.width


@pytest.mark.parametrize(
    ("values", "arguments", "words"),
    [
        (MEMBERS_FOUND, ["--output", "curves.svg"], "curves.svg: PNG is written"),
        ([result("base/0", {"town/val": 70.0})], [], "no evaluation has scores on the domain"),
        ([REVT], ["--protocol", "native"], "by the protocol 'native', only by paper"),
        ([REVT], ["--classes", "synthia12"], "unknown classes 'synthia12'"),
        (
            [REVT, {**REVT, "protocol_name": "native", "protocol": {"max_size": None}}],
            [],
            "by several protocols (paper, native): name one, --protocol",
        ),
        (
            [_network("base/0", {"fog-1": 60.0, "fog-1-seed1": 61.0})],
            [],
            "several seeds of fog 1 on town/val: keep one",
        ),
        (
            [
                MEMBERS_FOUND[0],
                result(
                    "base/1",
                    {},
                    scores=[score("town/val", 70.0, images=9), *_rows({"fog-1": 1.0})[1:]],
                ),
            ],
            [],
            "500 and 9 images of town/val: keep one",
        ),
    ],
)
def test_mistakes_are_one_sentence(capsys, tmp_path, values, arguments, words):
    written(tmp_path / "r", *values)
    output = tmp_path / "curves.png"
    assert words in refused(capsys, "curves", tmp_path / "r", "--output", output, *arguments)
    assert not output.exists()
