"""What a table computes: means, marks, order, and what it refuses to average."""

import json

import pytest

from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import read_results, write_results
from revt_hf.results.layout import layout
from revt_hf.results.rows import MEAN
from revt_hf.results.tables import TableOptions, build_tables
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

DASH = "\u2013"


def one_table(folder, *results, **options):
    (table,) = tables(folder, *results, **options)
    return table


def row(table, title):
    """A row's cells by their headings."""
    heads, *rows = texts(table)
    (found,) = [cells for cells in rows if cells[0] == title]
    return dict(zip(heads, found, strict=True))


def titles(table):
    return [row.title for row in table.rows]


def test_rows_are_means_over_seeds_and_heads_by_kind(tmp_path):
    table = one_table(tmp_path, *ALL)
    assert titles(table) == ["base", "ReVT {1,4,6}", "ensembles", "peeked", "chosen"]
    # The first file names cityscapes before town.
    assert table.labels == ("town/val", "cityscapes/val", "bdd100k/val")
    assert table.caption == "mIoU (%), source town/val, protocol paper (1024x512)"
    revt = next(row for row in table.rows if row.title == "ReVT {1,4,6}")
    # 40, 44, 45: mean 43, variance (9 + 1 + 4) / 3; the sample's would be 7.
    assert revt.cells["cityscapes/val"].mean == pytest.approx(43.0)
    assert revt.cells["cityscapes/val"].std == pytest.approx((14 / 3) ** 0.5)
    # Means per network: 35, 38, 39.5.
    assert revt.cells[MEAN].values == (35.0, 38.0, 39.5)


def test_a_mean_is_not_over_fewer_targets_than_the_others(tmp_path):
    assert row(one_table(tmp_path, *ALL), "ensembles")[MEAN] == DASH
    assert MEAN not in row(one_table(tmp_path / "one", ENSEMBLE), "ensembles")


def test_a_cell_of_fewer_networks_shows_their_number(tmp_path):
    partly = result("base/2", {"town/val": 75.0}, seed=2)
    cells = row(one_table(tmp_path, *BASE, partly), "base")
    assert cells["n"] == "3"
    assert cells["cityscapes/val"] == "40.0 ± 1.0 (n=2)"
    assert cells["town/val (source)"] == "73.0 ± 1.6"


def test_the_best_targets_are_marked_but_no_row_that_was_selected_on_one(tmp_path):
    best = {row.title: set(row.best) for row in one_table(tmp_path, *ALL).rows if row.best}
    # 34.0 of bdd100k is there twice; peeked has 40.0; the source is not compared.
    assert best == {
        "base": {"bdd100k/val"},
        "ensembles": {"cityscapes/val"},
        "chosen": {"bdd100k/val", MEAN},
    }


def test_selected_rows_have_a_mark_and_share_a_note(tmp_path):
    twin = {**CHOSEN, "model": "twin/0", "group": "twin", "network_sha256": ["other"]}
    content = layout(one_table(tmp_path, *ALL, twin))
    names = [cells[0].text for cells in content.rows]
    assert names[-3:] == ["peeked \u2021", "chosen \u2020", "twin \u2020"]
    assert content.notes[-2:] == (
        "\u2020 chosen; twin: selected on town/val; the best of 5.",
        "\u2021 peeked: selected on a target domain: not a generalisation result "
        "(cityscapes/val; the best of 7).",
    )
    other = {**PEEKED, "selected": {**PEEKED["selected"], "target": False, "candidates": 3}}
    notes = one_table(tmp_path / "other", CHOSEN, other).notes
    assert "\u2020 peeked: selected on cityscapes/val; the best of 3." in notes
    unmarked = layout(one_table(tmp_path / "plain", *REVT, *BASE))
    assert not any("selected" in note for note in unmarked.notes)


def test_per_model_gives_every_network_a_row(tmp_path):
    table = one_table(tmp_path, *ALL, per_model=True)
    assert titles(table)[:5] == ["base/0", "base/1", "revt/0", "revt/1", "revt/2"]
    assert row(table, "revt/1")["cityscapes/val (ours)"] == "44.0"


def test_costs_are_shown_where_they_were_measured(tmp_path):
    table = one_table(tmp_path, *ALL, cost=True)
    costs = ("parameters (M)", "GFLOPs", "images/s", "MiB")
    assert [row(table, "ReVT {1,4,6}")[name] for name in costs] == ["84.6", "110.2", "4.2", "901"]
    assert [row(table, "base")[name] for name in costs] == [DASH] * 4
    assert "GFLOPs" not in row(one_table(tmp_path, *ALL), "base")


def test_classes_give_the_mean_over_a_subset(tmp_path):
    table = one_table(tmp_path, *BASE, classes="synthia16")
    assert row(table, "base")["cityscapes/val"] == "41.0 ± 1.0"
    assert table.caption.startswith("mIoU (%) over synthia16, ")
    assert row(one_table(tmp_path, *BASE, classes="synthia13"), "base")["cityscapes/val"] == DASH
    with pytest.raises(UserError, match="unknown classes 'synthia15'"):
        TableOptions(classes="synthia15")


def test_each_protocol_has_a_table(tmp_path):
    own = {"max_size": [320, 160], "scales": [0.5, 1.0], "flip": True}
    recipe = {**BASE[0], "protocol_name": "recipe", "protocol": own}
    mixed = ({**BASE[0], **NATIVE}, *BASE, recipe)
    found = tables(tmp_path, *mixed)
    assert [table.protocol_title for table in found] == [
        "native (native size)",
        "paper (1024x512)",
        "320x160, scales 0.5 1.0, flip",
    ]
    assert [table.rows[0].count for table in found] == [1, 2, 1]
    for name, title in (("native", "native (native size)"), ("recipe", "320x160, scales")):
        assert one_table(tmp_path, *mixed, protocol=name).protocol_title.startswith(title)
    with pytest.raises(UserError, match="'slide', only by native, paper, recipe"):
        tables(tmp_path, *mixed, protocol="slide")


def test_networks_of_other_sources_have_a_table_of_their_own(tmp_path):
    """Two experiments may use the same names."""
    first = result("members/base/0", {"town/val": 70.0, "rain/val": 30.0})
    second = {**first, "network_sha256": ["other"]}
    second["scores"] = [score("day/val", 60.0, is_source=True), score("rain/val", 40.0)]
    ensembles = [{**one, "model": "ensembles/a", "network_sha256": []} for one in (first, second)]
    found = tables(tmp_path, first, second, *ensembles)
    assert [table.sources for table in found] == [("town/val",), ("day/val",)]
    assert [row(table, "members")["rain/val"] for table in found] == ["30.0 ± 0.0", "40.0 ± 0.0"]
    assert [len(table.rows[0].entries) for table in found] == [2, 2]


def test_networks_of_other_sizes_have_rows_of_their_own(tmp_path):
    """Experiments of several sizes use the same names."""
    both = [
        result(
            f"{name}/0",
            {"rain/val": miou + more},
            kind=kind,
            size=size,
            network_sha256=[f"{name} of {size}"],
        )
        for size, more in {"b5": 10.0, "b2": 0.0}.items()
        for name, kind, miou in (("revt", "merge", 40.0), ("base", "member", 30.0))
    ]
    table = one_table(tmp_path, *both)
    assert titles(table) == [
        *("base, SegFormer-B2", "revt, SegFormer-B2", "base, SegFormer-B5", "revt, SegFormer-B5"),
    ]
    assert [row.cells["rain/val"].mean for row in table.rows] == [30.0, 40.0, 40.0, 50.0]
    assert [bool(row.best) for row in table.rows] == [False, True, False, True]
    assert table.notes == ("Bold: the best of a target domain and a size.",)
    assert titles(one_table(tmp_path / "one", *both[:2])) == ["base", "revt"]


def test_the_scores_of_one_network_may_be_in_several_files_and_count_once(tmp_path):
    whole = BASE[0]
    parts = [{**whole, "scores": [one]} for one in whole["scores"]]
    assert row(one_table(tmp_path, *parts), "base") == row(one_table(tmp_path / "w", whole), "base")
    table = one_table(tmp_path / "twice", *BASE, BASE[0], [BASE[1]])
    assert row(table, "base")["cityscapes/val"] == "40.0 ± 1.0"
    assert table.rows[0].count == 2


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


def test_rows_on_other_images_are_not_compared(tmp_path):
    revt = {**REVT[0], "scores": [score("cityscapes/val", 50.0, images=10)]}
    table = one_table(tmp_path, BASE[0], revt)
    assert not any("cityscapes/val" in row.best for row in table.rows)
    assert any("10 images of train_ids and 500 images of" in note for note in table.notes)


def test_compact_results_give_the_same_table(tmp_path):
    paths = written(tmp_path, *ALL)
    small = tmp_path / "small" / "small.json"
    write_results(small, [one.compact() for one in read_results(paths)])
    options = TableOptions(paper="all", cost=True)
    first, second = (
        [layout(table) for table in build_tables(read_results(where), options)]
        for where in (paths, [small])
    )
    assert first == second


def test_compact_results_hold_what_the_table_needs_and_no_more(tmp_path):
    one = result("m", {"rain/val": 100 / 3}, seed=4, head="base", paper=PAPER)
    (read,) = read_results(written(tmp_path, one))
    write_results(tmp_path / "small.json", [read.compact()])
    (small,) = json.loads((tmp_path / "small.json").read_text())["results"]
    expected = {**one["scores"][0], "IoU": {"road": 33.33, "train": None}, "Acc": {}}
    assert small == {**one, "provenance": None, "scores": [{**expected, "data_dir": None}]}
