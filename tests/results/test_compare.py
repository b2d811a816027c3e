"""``revt table --compare``: published numbers beside ours, each under its own protocol."""

import csv
import io
from pathlib import Path

import pytest

from revt_hf.core.errors import UserError
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.published import PUBLISHED, REVT
from tests.helpers.made_up_results import ALL, BASE, NATIVE, result, tables, texts, written
from tests.helpers.tiny_experiment import code_of

UNKNOWN = "published, protocol not known"
DASH = "\u2013"


def test_a_number_by_another_protocol_is_never_in_the_column_of_ours(tmp_path):
    (table,) = tables(tmp_path, *BASE, compare="hrda,soma")
    heads, base, hrda, soma = texts(table)
    assert heads == [
        *(
            "model",
            "n",
            "town/val (source)",
            f"cityscapes/val ({UNKNOWN})",
            "cityscapes/val (ours)",
        ),
        *(f"bdd100k/val ({UNKNOWN})", "bdd100k/val (ours)", "mean of targets"),
    ]
    assert base[3:7] == [DASH, "40.0 \u00b1 1.0", DASH, "34.0 \u00b1 1.0"]
    title = "HRDA (domain generalisation), MiT-B5, trained on GTA5"
    assert hrda == [title, DASH, DASH, "57.4", DASH, "49.1", DASH, DASH]
    assert soma[0] == "SoMA, DINOv2-L, trained on GTA5, second hand"
    assert table.kinds == ("", "published", "published")
    notes = " ".join(table.notes)
    assert "ours: measured here by 1024x512. Numbers under different headings" in notes
    assert (
        "SoMA: README of ysj9909/SoMA; second hand means quoted by others, not read there." in notes
    )
    assert "HRDA (domain generalisation): arXiv 2304.13615." in notes


def test_a_number_by_our_protocol_is_beside_ours_and_by_another_it_says_so(tmp_path, monkeypatch):
    known = next(row for row in PUBLISHED if row.name == "hrda")
    # As if its reference said how it was tested.
    by_ours = known.model_copy(update={"protocol": PUBLISHED[0].protocol})
    monkeypatch.setattr("revt_hf.results.published.PUBLISHED", (by_ours,))
    (table,) = tables(tmp_path / "a", *BASE, compare="hrda")
    assert "cityscapes/val (published)" in texts(table)[0]
    native = [one | NATIVE for one in BASE]
    (table,) = tables(tmp_path / "b", *native, compare="hrda")
    assert "cityscapes/val (published, 1024x512)" in texts(table)[0]


def test_the_papers_rows_keep_their_column(tmp_path):
    gta, *_ = tables(tmp_path, *ALL, compare="rein", paper="gta5")
    heads, *rows = texts(gta)
    at = heads.index("cityscapes/val (paper)")
    assert heads[at : at + 3] == [
        *("cityscapes/val (paper)", f"cityscapes/val ({UNKNOWN})", "cityscapes/val (ours)"),
    ]
    found = {row[0]: row[at : at + 3] for row in rows}
    assert found["ReVT {1,4,6}"][:2] == ["49.96", DASH]
    assert found["Rein, DINOv2-L, trained on GTA5 + SYNTHIA"] == [DASH, "72.2", DASH]
    # A row that nobody measured here is never the best.
    assert not any(cell.best for row in gta.rows for cell in row if cell.text == "72.2")


def test_lines_of_csv_have_the_protocol_of_their_number(tmp_path):
    text = formatted(tables(tmp_path, *BASE, compare="rein"), TableFormat.csv)
    rows = list(csv.DictReader(io.StringIO(text)))
    others = [row for row in rows if row["kind"] == "published"]
    assert [(row["label"], row["published"]) for row in others[:2]] == [
        *(("cityscapes/val", "66.7"), ("bdd100k/val", "60.0")),
    ]
    keys = ("protocol", "source", "mean", "paper", "second_hand", "reference", "backbone")
    assert [others[0][key] for key in keys] == [
        *("protocol not known", "gta5", "", "", "true", "README of w1oves/Rein", "DINOv2-L"),
    ]
    assert {row["published"] for row in rows if row["kind"] != "published"} == {""}
    without = formatted(tables(tmp_path, *BASE), TableFormat.csv)
    assert "published" not in without


def test_other_images_and_other_maps_are_named(tmp_path):
    label = {"label_encoding": "mapillary_v1.2/rein@1", "images": 7}
    ours = result("m", {"town/val": 3.0, "cityscapes/val": 3.0, "mapillary/val": 3.0})
    ours["scores"][2] |= label
    (table,) = tables(tmp_path, ours, compare="hrda")
    notes = "\n".join(table.notes)
    assert "mapillary/val: ours on 7 of its 2000 images." in notes
    assert "in several ways; ours by mapillary_v1.2/rein@1, others may have used another" in notes
    assert "cityscapes/val: ours" not in notes


def test_scores_over_other_classes_are_refused(tmp_path):
    ours = result("m", {"town/val": 3.0, "cityscapes/val": 3.0})
    ours["scores"][1]["IoU"] = {"sky": 1.0, "tree": 2.0}
    with pytest.raises(UserError, match=r"m in .* on cityscapes/val over other classes \(2\)"):
        tables(tmp_path, ours, compare="hrda")
    # Without a published number beside it, it is only a row.
    assert tables(tmp_path, ours)


@pytest.mark.parametrize("chosen", ["terminal", "markdown", "latex", "html"])
def test_every_format_names_the_protocol_in_the_heading(tmp_path, chosen):
    text = formatted(tables(tmp_path, *BASE, compare="rein++"), TableFormat(chosen))
    assert "protocol not known" in text
    assert "73.9" in text
    assert "zhixiangwei/ReinPlusPlus" in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"compare": "dino"}, "--compare 'dino': use hrda, rein, rein"),
        ({"compare": ""}, "--compare '': use hrda"),
        ({"compare": "revt"}, "the paper's rows are added by --paper"),
        ({"compare": "rein", "classes": "synthia16"}, "over all 19 classes, not synthia16"),
    ],
)
def test_refusals(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence.replace("+", r"\+")):
        tables(tmp_path, *BASE, **options)


def test_results_without_a_common_target_are_refused(tmp_path):
    with pytest.raises(UserError, match="have no score on cityscapes/val, bdd100k/val, mapillary"):
        tables(tmp_path, result("m", {"rain/val": 3.0}), compare="hrda")
    # A source is no target: what others score there is not generalisation of ours.
    one = result("m", {"town/val": 3.0})
    one["scores"][0]["label"] = "cityscapes/val"
    with pytest.raises(UserError, match="as a target"):
        tables(tmp_path, one, compare="hrda")


def test_a_document_is_renewed_with_it(tmp_path):
    document, (path,) = tmp_path / "page.md", written(tmp_path, BASE)
    document.write_text("<!-- results:begin revt table x.json -->\n<!-- results:end -->\n")
    assert code_of("table", path, "--compare", "hrda", "--update", document, "--quiet") == 0
    text = document.read_text()
    assert f"revt table {Path(path).name} --compare hrda -->" in text
    assert "| 57.4 |" in text
    assert code_of("table", "--check", document, "--quiet") == 0


def test_each_number_has_what_a_reader_needs():
    others = [row for row in PUBLISHED if row.name != REVT]
    assert len(others) == 13
    for row in others:
        assert row.reference and row.backbone and row.sources and row.miou
