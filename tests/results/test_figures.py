"""`revt curves`, mIoU over severity, members against merges; and names in any figure."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from revt_hf.evaluation.result import read_results, write_results
from revt_hf.results.figures import build_curves, draw_curves, figure, legend_name, short_names
from tests.helpers.command_line import refused, revt
from tests.helpers.made_up_results import evaluated, result, score, written


def _rows(scores, clean=70.0):
    """Rows of a network: ``fog-3`` -> mIoU, and of the split as it is."""
    return [score("town/val", clean)] + [
        score(f"town-{name}/val", miou, domain="corruptions", is_source=False)
        for name, miou in scores.items()
    ]


def _network(model, scores, clean=70.0, **values):
    return result(model, {}, scores=_rows(scores, clean), **values)


BOTH = [
    _network("base/0", {"fog-1": 60.0, "fog-3": 50.0, "rain-1": 50.0, "rain-3": 30.0}),
    _network("pixmix/0", {"fog-1": 64.0, "fog-3": 40.0, "rain-1": 54.0, "rain-3": 34.0}, 74.0),
]
REVT = _network(
    "revt/0", {"fog-1": 66.0, "fog-3": 55.0}, 71.0, group="ReVT {1,4,6}", kind="merge", seed=0
)
NATIVE = {**REVT, "protocol_name": "native", "protocol": {"max_size": None}}
FEWER = [score("town/val", 70.0, images=9), *_rows({"fog-1": 1.0})[1:]]
CLEAN, *CORRUPTED = _rows({"fog-1": 60.0})
CITY = [score("city-fog-1/val", 50.0, domain="corruptions"), *_rows({"fog-1": 60.0})]


def _curves(tmp_path, *evaluations, **how):
    return build_curves(read_results(written(tmp_path / "r", *evaluations)), **how)


# What is averaged by severity: of members (60 + 50) / 2 and (64 + 54) / 2, and so on.
CURVES = {
    "members are one line, and one kind of a merge is no mean of several": (
        *([*BOTH, REVT], None),
        [
            "members, fog of town/val: 0 70 74, 1 60 64, 3 50 40",
            "members, rain of town/val: 0 70 74, 1 50 54, 3 30 34",
            "members, mean of all of town/val: 0 70 74, 1 55 59, 3 40 37",
            "ReVT {1,4,6}, fog of town/val: 0 71, 1 66, 3 55",
        ],
    ),
    "the mean of all leaves out what a kind lacks": (
        *([_network("base/0", {"fog-1": 60.0, "fog-2": 55.0, "rain-1": 50.0})], None),
        [
            "members, fog of town/val: 0 70, 1 60, 2 55",
            "members, rain of town/val: 0 70, 1 50",
            "members, mean of all of town/val: 0 70, 1 55",
        ],
    ),
    "the score without corruption may be in another file": (
        *([result("base/0", {}, scores=rows) for rows in ([CLEAN], CORRUPTED)], None),
        ["members, fog of town/val: 0 70, 1 60"],
    ),
    "a subset of classes": (
        [REVT],
        "synthia16",
        ["ReVT {1,4,6}, fog of town/val: 0 72, 1 67, 3 56"],
    ),
    "another split, which was not scored itself": (
        *([result("base/0", {}, scores=CITY)], None),
        ["members, fog of city/val: 1 50", "members, fog of town/val: 0 70, 1 60"],
    ),
}


@pytest.mark.parametrize(("evaluations", "classes", "wanted"), CURVES.values(), ids=CURVES)
def test_a_line_of_members_and_one_of_each_merge(tmp_path, evaluations, classes, wanted):
    curves = _curves(tmp_path, *evaluations, classes=classes)
    found = []
    for c in curves.curves:
        points = [" ".join(f"{v:g}" for v in (at, *one.values)) for at, one in c.points.items()]
        found.append(f"{c.networks}, {c.corruption} of {c.of}: {', '.join(points)}")
    assert found == wanted
    draw_curves(curves, tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as image:
        # A panel for each split and kind.
        assert (image.width > 600) == (len({(c.of, c.corruption) for c in curves.curves}) > 1)


def test_results_of_evaluate_and_compact_ones_are_read_alike(tmp_path):
    (path,) = written(tmp_path, evaluated("a", CITY[1:], protocol={"max_size": None}))
    found = read_results([path])
    curves = build_curves(found)
    assert curves.curves[0].networks == "a"
    assert curves.protocol == "native"
    again = tmp_path / "again.json"
    write_results(again, [one.compact() for one in found])
    assert build_curves(read_results([again])) == curves


def test_the_command_writes_figure_and_numbers(capsys, tmp_path):
    written(tmp_path / "r", *BOTH, REVT)
    drawn, numbers = tmp_path / "curves.png", tmp_path / "curves.json"
    code, out, error = revt(capsys, "curves", tmp_path / "r", "--output", drawn, "--json", numbers)
    assert code == 0, error
    assert out == f"4 curves: {drawn}\n"
    quiet = ("--output", tmp_path / "quiet.png", "--quiet")
    assert revt(capsys, "curves", tmp_path / "r", *quiet) == (0, "", "")
    found = json.loads(numbers.read_text())
    assert (found["protocol"], found["classes"]) == ("paper", None)
    point = found["curves"][0]["points"][2]
    assert point == {"severity": 3, "mIoU": 45.0, "std": 5.0, "values": [50.0, 40.0]}
    with Image.open(drawn) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # The merge's line and the members' are there.
    for colour in ((0x2F, 0x55, 0xD4), (0xA9, 0xB2, 0xBE)):
        assert (np.abs(pixels - colour).max(-1) < 3).sum() > 100


@pytest.mark.parametrize(
    ("values", "arguments", "words"),
    [
        (BOTH, ["--output", "curves.svg"], "curves.svg: PNG is written"),
        ([result("base/0", {"town/val": 70.0})], [], "no evaluation has scores on the domain"),
        ([REVT], ["--protocol", "native"], "by the protocol 'native', only by paper"),
        ([REVT], ["--classes", "synthia12"], "unknown classes 'synthia12'"),
        ([REVT], ["--classes", "synthia13"], "no evaluation has scores of synthia13"),
        ([REVT, NATIVE], [], "by several protocols (paper, native): name one, --protocol"),
        (
            [_network("base/0", {"fog-1": 60.0, "fog-1-seed1": 61.0})],
            [],
            "several seeds of fog 1 on town/val: keep one",
        ),
        (
            [BOTH[0], result("base/1", {}, scores=FEWER)],
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


NAMES = ["$\\frac{$", "a_b^{", "\\", "{%s}", "$x$ and $", "_hidden", "a\x1b[31m\nb"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_drawn(tmp_path, name):
    """No name is a formula, holds control characters, or hides a label."""
    with warnings.catch_warnings(), figure(tmp_path / "f.png", 2, 2) as (drawing, axes):
        # A legend without entries is a warning.
        warnings.simplefilter("error")
        axis = axes[0][0]
        axis.plot([0, 1], [0, 1], label=legend_name(name))
        axis.set_title(short_names([f"runs/{name}", "runs/other"])[0])
        axis.set_xlabel(name.replace("\x1b", ""))
        axis.legend()
        drawing.suptitle(legend_name(name))
        assert len(axis.get_legend().get_texts()) == 1
    assert (tmp_path / "f.png").stat().st_size > 0
