"""The paper's numbers, and where they are shown beside ours."""

import re
from pathlib import Path

import pytest

from revt_hf.core.errors import UserError
from revt_hf.results.paper import ROWS, paper_row
from revt_hf.results.tables import TableOptions
from tests.helpers.golden import ROOT
from tests.helpers.made_up_results import ALL, BASE, NATIVE, PAPER, REVT, result, tables, texts

# The lines of the table in the original's README.
ORIGINAL = Path(__file__).with_name("original_table.txt")
SOURCES = {"GTA train split": "gta5", "SYNTHIA train split": "synthia"}
DASH = "\u2013"


def original_rows():
    size = source = ""
    found = []
    for line in ORIGINAL.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|") if cell.strip()]
        if not re.fullmatch(r"\d+\.\d+%", cells[-2] if len(cells) > 1 else ""):
            continue
        *names, method, cityscapes, bdd, link = cells
        for name in names:
            size = name.split()[1].lower() if name.startswith("Segformer") else size
            source = SOURCES.get(name, source)
        methods = tuple(map(int, re.findall(r"\d", method))) or (1,)
        found.append((size, source, methods, cityscapes, bdd, link if "://" in link else None))
    return found


def test_all_18_rows_are_the_originals_digit_by_digit():
    ours = [
        (row.size, row.source, row.methods, f"{row.cityscapes:.2f}%", f"{row.bdd:.2f}%", row.link)
        for row in ROWS
    ]
    assert len(ours) == 18
    assert ours == original_rows()


def test_the_lines_here_are_those_of_the_original():
    whole = ROOT.parent / "shared" / "facts" / "original_readme.txt"
    if not whole.exists():
        pytest.skip("the original's README is not here")
    assert ORIGINAL.read_text(encoding="utf-8") in whole.read_text(encoding="utf-8")


def test_a_row_is_found_by_what_it_is():
    assert paper_row("gta5", "b5", (1, 4, 6)).scores == {
        "cityscapes/val": 49.96,
        "bdd100k/val": 48.01,
    }
    assert paper_row("synthia", "b2", [6, 5, 4]).scores["bdd100k/val"] == 35.18
    with pytest.raises(UserError, match="no row gta5/b1/1-4-6: it has gta5/b2/1, "):
        paper_row("gta5", "b1", (1, 4, 6))


def test_the_table_of_the_paper_alone_has_18_rows_and_dashes(tmp_path):
    measured, papers = tables(tmp_path, result("m", {"rain/val": 3.0}), paper="all")
    assert texts(measured) == [["model", "rain/val"], ["m", "3.0"]]
    heads, *rows = texts(papers)
    assert heads == [
        *("model", "cityscapes/val (paper)", "cityscapes/val (ours)"),
        *("bdd100k/val (paper)", "bdd100k/val (ours)"),
    ]
    found = [(f"{row[1]}%", row[2], f"{row[3]}%", row[4]) for row in rows]
    assert found == [(row[3], DASH, row[4], DASH) for row in original_rows()]
    assert rows[1][0] == "ReVT {1, 4, 6}, SegFormer-B2, GTA5"
    assert "not measured here" in " ".join(papers.notes)
    assert "16 or 19" in " ".join(papers.notes)


def test_paper_and_ours_are_side_by_side_where_the_paper_has_numbers(tmp_path):
    heads, base, revt = texts(tables(tmp_path, *REVT, *BASE)[0])
    assert heads[2:] == [
        *("town/val (source)", "cityscapes/val (paper)", "cityscapes/val (ours)"),
        *("bdd100k/val (paper)", "bdd100k/val (ours)", "mean of targets"),
    ]
    assert base[3:6:2] == [DASH, DASH]
    assert revt[3:7] == ["49.96", "43.0 ± 2.2", "48.01", "32.0 ± 1.6"]
    assert not any("paper" in text for text in texts(tables(tmp_path / "b", *BASE)[0])[0])


def test_rows_nobody_measured_join_the_table_of_their_source_and_size(tmp_path):
    gta, papers = tables(tmp_path, *ALL, paper="all")
    own = paper_row("gta5", "b5", [1, 4, 6])
    assert [row.title for row in gta.rows][-8:] == [
        row.title for row in ROWS if row.source == "gta5" and row != own
    ]
    assert [row.title for row in papers.rows] == [
        row.title for row in ROWS if row.source == "synthia"
    ]
    sized = [{**one, "size": "b5"} for one in (*REVT, *BASE)]
    (table,) = tables(tmp_path / "sized", *sized, paper="gta5")
    assert [row.title for row in table.rows] == [
        *("Baseline, SegFormer-B2, GTA5", "ReVT {1, 4, 6}, SegFormer-B2, GTA5"),
        *("ReVT {4, 5, 6}, SegFormer-B2, GTA5", "Baseline, SegFormer-B3, GTA5"),
        *("ReVT {1, 4, 6}, SegFormer-B3, GTA5", "ReVT {4, 5, 6}, SegFormer-B3, GTA5"),
        *("base, SegFormer-B5", "ReVT {1,4,6}, SegFormer-B5"),
        *("Baseline, SegFormer-B5, GTA5", "ReVT {4, 5, 6}, SegFormer-B5, GTA5"),
    ]


def test_another_protocol_is_not_compared_with_the_paper(tmp_path):
    """Its numbers are of 1024x512."""
    native = result("m", {"cityscapes/val": 50.0}, paper=PAPER, **NATIVE)
    measured, papers = tables(tmp_path, native, paper="all")
    assert texts(measured)[0] == ["model", "cityscapes/val"]
    # And it does not count as measured.
    assert len(papers.rows) == 18


def test_other_classes_are_not_compared_with_the_paper(tmp_path):
    (table,) = tables(tmp_path, *REVT, classes="synthia16")
    assert not any("paper" in text for text in texts(table)[0])
    synthia = {"source": "synthia", "size": "b5", "methods": [1, 4, 6]}
    one = result("m", {"cityscapes/val": 50.0}, paper=synthia)
    (table,) = tables(tmp_path / "synthia", one, classes="synthia16")
    assert texts(table)[1] == ["m", "46.28", "51.0"]


def test_a_row_that_the_paper_does_not_have_is_refused(tmp_path):
    wrong = result("m", {"cityscapes/val": 50.0}, paper={**PAPER, "size": "b1"})
    with pytest.raises(UserError, match=r"00.json.*paper: .* no row gta5/b1/1-4-6"):
        tables(tmp_path, wrong)
    with pytest.raises(UserError, match="--paper 'kitti': use one of gta5, synthia, all"):
        TableOptions(paper="kitti")
