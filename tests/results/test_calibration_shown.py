"""Calibration in tables of every format, below ``revt evaluate``, and as reliability diagrams."""

import csv
import io
import re

import pytest

from revt_hf.evaluation.calibration import Calibration, ReliabilityBin
from revt_hf.evaluation.result import read_results
from revt_hf.results.charts import reliability_diagrams
from revt_hf.results.formats import TableFormat, formatted, print_scores
from revt_hf.results.layout import BETTER, calibration_layout
from revt_hf.results.page import style_of, write_page
from revt_hf.results.report import ReportModel
from revt_hf.results.tables import TableOptions, build_tables
from tests.helpers.made_up_results import evaluated, result, score, tables, texts, written
from tests.helpers.rendered import Rendered
from tests.results.test_report import make_report

DASH = "\u2013"
NAMES = ["ECE (%)", "Brier", "NLL (nats)", "AUROC (%)", "AURC (%)"]


def calibration(ece, **changes):
    known = {"ece": ece, "brier": 0.25, "nll": 0.5, "auroc": 80.0, "aurc": 4.0}
    return {**known, **changes}


def scored(label, miou, ece=None, **changes):
    return score(label, miou, **({"calibration": calibration(ece, **changes)} if ece else {}))


ROWS = [
    result(
        f"base/{seed}",
        {},
        seed=seed,
        scores=[
            scored("town/val", 70.0, 1.0),
            scored("rain/val", 40.0, 2.0 + seed, nll=None if seed else 0.5),
            scored("night/val", 30.0, 6.0 + seed),
        ],
    )
    for seed in (0, 1)
]
# One domain of it was scored without.
ROWS.append(
    result("plain/0", {}, scores=[scored("rain/val", 41.0, 9.0), scored("night/val", 31.0)], seed=0)
)


def test_columns_are_means_over_targets_of_networks_that_have_them_all(tmp_path):
    (table,) = tables(tmp_path, *ROWS, calibration=True)
    heads, base, plain = texts(table)
    assert heads[-5:] == NAMES
    # 4 and 5 are the means of 2 and 6, and of 3 and 7; only one network has an NLL.
    assert base[-5:] == [
        "4.50 \u00b1 0.50",
        "0.250 \u00b1 0.000",
        "0.500 (n=1)",
        "80.00 \u00b1 0.00",
        "4.00 \u00b1 0.00",
    ]
    assert plain[-5:] == [DASH] * 5
    assert f"Calibration: means over rain/val, night/val. {BETTER}" in table.notes
    assert BETTER in calibration_layout([]).notes
    (without,) = tables(tmp_path, *ROWS)
    assert texts(without)[1] == base[:-5]
    assert not any("ECE" in note for note in without.notes)


def test_every_format_shows_them_beside_costs(tmp_path):
    found = build_tables(read_results(written(tmp_path, *ROWS)), TableOptions(calibration=True))
    for chosen in set(TableFormat) - {TableFormat.csv}:
        text = re.sub(r"\s+", " ", formatted(found, chosen))
        assert "4.50" in text and "AUROC" in text, chosen
    lines = list(csv.DictReader(io.StringIO(formatted(found, TableFormat.csv))))
    shown = {one["label"]: (one["ece"], one["nll"]) for one in lines if one["group"] == "base"}
    assert shown == {
        "town/val": ("1.0000", "0.5000"),
        "rain/val": ("2.5000", "0.5000"),
        "night/val": ("6.5000", "0.5000"),
        "mean of targets": ("4.5000", "0.5000"),
    }
    plain = {one["label"]: one["ece"] for one in lines if one["group"] == "plain"}
    assert plain == {"rain/val": "9.0000", "night/val": "", "mean of targets": ""}
    page = Rendered(formatted(found, TableFormat.html))
    assert page.open == []
    assert [text for text, *_ in page.rows[0]][-1] == "calibration"
    assert "ece" not in formatted(tables(tmp_path, *ROWS), TableFormat.csv).splitlines()[0]


def test_two_files_of_a_network_give_scores_and_calibration(tmp_path):
    plain = evaluated("net", [score("rain/val", 40.0)])
    measured = evaluated("net", [scored("rain/val", 40.0, 2.0)])
    for order in ((plain, measured), (measured, plain)):
        (table,) = tables(tmp_path, *order, calibration=True)
        assert texts(table)[1] == ["net", "40.0", "2.00", "0.250", "0.500", "80.00", "4.00"]


def test_evaluate_prints_them_by_domain(tmp_path, capsys):
    print_scores(read_results(written(tmp_path, ROWS[0], ROWS[2])))
    lines = [line.split("\u2502")[1:-1] for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line] for line in lines if len(line) == 7]
    assert [row[:3] for row in cells] == [
        ["base", "town/val", "1.00"],
        ["base", "rain/val", "2.00"],
        ["base", "night/val", "6.00"],
        ["plain", "rain/val", "9.00"],
    ]


def _bins(*filled):
    """Bins by number: pixels, right ones, and the mean confidence in percent."""
    bins = [ReliabilityBin(pixels=0, right=0)] * 15
    for number, pixels, right, confidence in filled:
        bins[number] = ReliabilityBin(pixels=pixels, right=right, confidence=confidence)
    return Calibration(**calibration(5.0), bins=tuple(bins))


@pytest.fixture
def report():
    """Members, two merges and an ensemble, with calibration on one of the unseen domains."""
    made = make_report()
    names = {"average, recalibrated": "merge", "all <b>": "ensemble"}
    results = list(made.results)
    results += [one.model_copy(update={"model": name}) for name in names for one in results[3:4]]
    found = _bins((7, 25_000, 10_000, 50.0), (14, 75_000, 60_000, 98.0), (3, 9, 9, 25.0))
    for number, one in enumerate(results[1:], 1):
        scores = tuple(
            each.model_copy(update={"calibration": found if each.label == "rain" else None})
            for each in one.scores
        )
        results[number] = one.model_copy(update={"scores": scores})
    models = [*made.models, *(ReportModel(name, kind) for name, kind in names.items())]
    return make_report(models=models, results=results)


def test_diagrams_show_accuracy_over_confidence(report):
    (diagram,) = reliability_diagrams(report)
    assert diagram.domain == "rain"
    # 40 % right at 50 %, 80 % right at 98 %; 9 of 100,009 pixels are too few.
    assert diagram.accuracy.paths["plain"] == "M500.0 600.0 L980.0 200.0"
    steps = diagram.shares.paths["plain"].removeprefix("M").split(" L")
    assert steps[14:16] == ["466.7 750.0", "533.3 750.0"]
    assert steps[-2:] == ["933.3 250.1", "1000.0 250.1"]
    assert [row[0].text for row in diagram.scores.rows] == [
        *("plain", "blur", "average", "average, recalibrated", "all <b>")
    ]
    assert reliability_diagrams(make_report()) == []


def test_a_page_draws_them_for_all_models_alike(report, tmp_path):
    write_page(report, tmp_path / "page.html")
    page = Rendered((tmp_path / "page.html").read_text())
    assert page.open == []
    assert "calibration" in page.attributes("h2", "id")
    assert "all <b>" in page.text and "accuracy (%) over confidence on rain" in "".join(
        page.attributes("svg", "aria-label")
    )
    styles = [style_of(report, name) for name in report.names()]
    assert styles == ["grey", "c0", "c1", "accent", "c2", "c3"]
    assert page.attributes("path", "class").count("diagonal") == 1
    # The ensemble has a row of scores, too.
    assert "5.00 0.250 0.500 80.00 4.00" in re.sub(r"\s+", " ", page.text)
    assert [row[0][0] for row in page.rows].count("all <b>") == 2
