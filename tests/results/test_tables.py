"""What a table computes: means, marks, order, the paper's numbers, and what is not averaged."""

import json
import re
from pathlib import Path

import pytest

from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import read_results, write_results
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.layout import best_rows, difference, signed
from revt_hf.results.published import ROWS, paper_row
from revt_hf.results.tables import TableOptions, build_tables
from tests.helpers.golden import ROOT, check_text
from tests.helpers.made_up_results import (
    ALL,
    BASE,
    CHOSEN,
    ENSEMBLE,
    NATIVE,
    PAPER,
    PEEKED,
    PROTOCOL,
    REVT,
    result,
    score,
    tables,
    texts,
    written,
)

# The lines of the table in the original's README.
ORIGINAL = Path(__file__).with_name("original_table.txt")
TWIN = {**CHOSEN, "model": "twin/0", "group": "twin", "network_sha256": ["other"]}
ELSEWHERE = {**PEEKED, "selected": {**PEEKED["selected"], "target": False, "candidates": 3}}
# Two experiments may use the same names, also for ensembles, whose networks are not told.
RAIN = result("members/a/0", {"town/val": 70.0, "rain/val": 30.0})
DAY_SCORES = [score("day/val", 60.0, is_source=True), score("rain/val", 40.0)]
DAY = {**RAIN, "network_sha256": ["other"], "scores": DAY_SCORES}
ENSEMBLES = [{**one, "model": "ensembles/a", "network_sha256": []} for one in (RAIN, DAY)]
RECIPE = {"max_size": [320, 160], "scales": [0.5, 1.0], "flip": True}
OWN = {**RAIN, "protocol_name": "recipe", "protocol": RECIPE}
SIZED = [
    result(f"{kind}/0", {"rain/val": miou}, kind=kind, size=size, network_sha256=[f"{miou}"])
    for kind, size, miou in (
        *(("merge", "b5", 50.0), ("member", "b5", 41.0)),
        *(("merge", "b2", 40.0), ("member", "b2", 30.0)),
    )
]
ONE_MORE = result("base/2", {"town/val": 75.0}, seed=2)
PARTS = [{**BASE[0], "scores": [one]} for one in BASE[0]["scores"]]
FEWER_IMAGES = result("revt/0", {}, scores=[score("cityscapes/val", 50.0, images=10)])
SYNTHIA = {"source": "synthia", "size": "b5", "methods": [1, 4, 6]}
ON_SYNTHIA = result("m", {"cityscapes/val": 50.0}, paper=SYNTHIA)


MADE_OF = {
    "rows of every kind": (ALL, {}),
    "a single target has no mean": ([ENSEMBLE], {}),
    "a cell of fewer networks, and no mean over fewer targets": ([*BASE, ONE_MORE], {}),
    "selected rows share a note; none that was selected on a target is the best": (
        *([CHOSEN, TWIN, PEEKED], {}),
    ),
    "what was not selected by target scores may be the best": ([CHOSEN, ELSEWHERE], {}),
    "a row per model": ([*BASE, REVT[1]], {"per_model": True}),
    "the paper's numbers beside ours, and costs": ([*REVT, *BASE], {"cost": True}),
    "classes that the paper's numbers do not average": ([*REVT, *BASE], {"classes": "synthia16"}),
    "classes that the paper's numbers may average": ([ON_SYNTHIA], {"classes": "synthia16"}),
    "classes without a score": (BASE, {"classes": "synthia13"}),
    "a table for each source": ([RAIN, DAY, *ENSEMBLES], {}),
    "a table for each protocol": ([{**RAIN, **NATIVE}, RAIN, OWN], {}),
    "each size has its best": (SIZED, {}),
    "one size is not told": (SIZED[:2], {}),
    "scores in several files, each counted once": ([*PARTS, BASE[1], BASE[0], [BASE[1]]], {}),
    "other images are not compared": ([BASE[0], FEWER_IMAGES], {}),
    "only the size of a row that nobody measured": (
        *([{**one, "size": "b5"} for one in (*REVT, *BASE)], {"paper": "gta5"}),
    ),
    "another protocol than the paper's, which does not count as its row": (
        *([result("m", {"cityscapes/val": 50.0}, paper=PAPER, **NATIVE)], {"paper": "gta5"}),
    ),
}


@pytest.mark.parametrize("name", MADE_OF)
def test_a_table(tmp_path, name):
    results, options = MADE_OF[name]
    made = tables(tmp_path, *results, **options)
    check_text(formatted(made, TableFormat.markdown), Path(__file__).with_name("tables.md"), name)


def test_protocols_are_chosen_by_name(tmp_path):
    mixed = ({**RAIN, **NATIVE}, RAIN, OWN)
    for name, title in (("native", "native (native size)"), ("recipe", "320x160, scales")):
        (table,) = tables(tmp_path, *mixed, protocol=name)
        assert f"protocol {title}" in table.caption
    with pytest.raises(UserError, match="'slide', only by native, paper, recipe"):
        tables(tmp_path, *mixed, protocol="slide")


def changed(**values):
    """The second base network with another score on cityscapes."""
    scores = [
        {**one, **values} if one["label"] == "cityscapes/val" else one for one in BASE[1]["scores"]
    ]
    return {**BASE[1], "scores": scores}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(images=100), "on cityscapes/val: 500 and 100 images"),
        (changed(label_encoding="ids"), "on cityscapes/val: label encodings train_ids and ids"),
        (
            {**BASE[1], "protocol": {**PROTOCOL, "max_size": [512, 256]}},
            "their protocol 'paper' is 1024x512 and 512x256",
        ),
        ({**BASE[1], "model": "base/0", "seed": 0}, "two networks of one name"),
        ({**BASE[0], "scores": [score("town/val", 70.5)]}, "score base/0 on town/val differently"),
    ],
)
def test_what_cannot_be_averaged_is_refused(tmp_path, other, words):
    with pytest.raises(UserError) as caught:
        tables(tmp_path, BASE[0], other)
    for part in (words, str(tmp_path / "00.json"), str(tmp_path / "01.json")):
        assert part in str(caught.value)


def test_compact_results_give_the_same_table_and_hold_no_more(tmp_path):
    paths = written(tmp_path, *ALL)
    small = tmp_path / "small" / "small.json"
    write_results(small, [one.compact() for one in read_results(paths)])
    options = TableOptions(paper="all", cost=True)
    first, second = (build_tables(read_results(where), options) for where in (paths, [small]))
    assert first == second
    one = result("m", {"rain/val": 100 / 3}, seed=4, head="base", paper=PAPER)
    (read,) = read_results(written(tmp_path, one)[:1])
    write_results(small, [read.compact()])
    (kept,) = json.loads(small.read_text())["results"]
    expected = {**one["scores"][0], "Acc": {}}
    expected["IoU"] = {**expected["IoU"], "road": 33.33}
    assert kept == {**one, "provenance": None, "scores": [{**expected, "data_dir": None}]}


def test_differences_and_best_values_agree_with_the_printed_numbers():
    assert difference(45.26, 43.14) == pytest.approx(2.2)  # 45.3 - 43.1, not 2.12
    assert [signed(value) for value in (2.2, -0.4, 0.0)] == ["+2.2", "\u22120.4", "\u00b10.0"]
    # One value is not the best of anything.
    assert best_rows([None, 4.0]) == set()
    assert best_rows([3.0, None, 4.0, 4.01]) == {2, 3}


def original_rows():
    sources = {"GTA train split": "gta5", "SYNTHIA train split": "synthia"}
    size = source = ""
    found = []
    for line in ORIGINAL.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|") if cell.strip()]
        if not re.fullmatch(r"\d+\.\d+%", cells[-2] if len(cells) > 1 else ""):
            continue
        *names, method, cityscapes, bdd, link = cells
        for name in names:
            size = name.split()[1].lower() if name.startswith("Segformer") else size
            source = sources.get(name, source)
        methods = tuple(map(int, re.findall(r"\d", method))) or (1,)
        found.append((size, source, methods, cityscapes, bdd, link if "://" in link else None))
    return found


def test_all_18_rows_of_the_paper_are_the_originals_digit_by_digit(tmp_path):
    ours = [
        (row.size, row.source, row.methods, *(f"{v:.2f}%" for v in row.miou.values()), row.link)
        for row in ROWS
    ]
    assert len(ours) == 18
    assert ours == original_rows()
    # The table of the paper alone has them all, and dashes.
    measured, papers = tables(tmp_path, result("m", {"rain/val": 3.0}), paper="all")
    assert texts(measured) == [["model", "rain/val"], ["m", "3.0"]]
    found = [(f"{row[1]}%", row[2], f"{row[3]}%", row[4]) for row in texts(papers)[1:]]
    assert found == [(row[3], "\u2013", row[4], "\u2013") for row in ours]
    assert "16 or 19 classes" in papers.notes[-1]


def test_the_lines_here_are_those_of_the_original():
    whole = ROOT.parent / "shared" / "facts" / "original_readme.txt"
    if not whole.exists():
        pytest.skip("the original's README is not here")
    assert ORIGINAL.read_text(encoding="utf-8") in whole.read_text(encoding="utf-8")


def test_a_row_of_the_paper_is_found_by_what_it_is(tmp_path):
    assert paper_row("gta5", "b5", (1, 4, 6)).scores() == {
        "cityscapes/val": 49.96,
        "bdd100k/val": 48.01,
    }
    assert paper_row("synthia", "b2", [6, 5, 4]).scores()["bdd100k/val"] == 35.18
    wrong = result("m", {"cityscapes/val": 50.0}, paper={**PAPER, "size": "b1"})
    with pytest.raises(UserError, match=r"00.json: paper: .* no row gta5/b1/1-4-6: it has gta5/b2"):
        tables(tmp_path, wrong)


def test_rows_nobody_measured_join_the_table_of_their_source(tmp_path):
    gta, papers = tables(tmp_path, *ALL, paper="all")
    own = paper_row("gta5", "b5", [1, 4, 6])
    assert [row[0] for row in texts(gta)][-8:] == [
        row.title for row in ROWS if row.source == "gta5" and row != own
    ]
    assert [row[0] for row in texts(papers)[1:]] == [
        row.title for row in ROWS if row.source == "synthia"
    ]
