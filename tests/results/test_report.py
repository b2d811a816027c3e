"""``revt report``: the page's numbers, its charts and images, and what it refuses."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import DomainScore, Result, read_results
from revt_hf.merging.average import merge
from revt_hf.results.page import write_page
from revt_hf.results.report import Example, Report, ReportModel, TrainingCurve, report_models
from revt_hf.results.sheets import Panel
from tests.helpers.command_line import refused, revt
from tests.helpers.golden import check_text
from tests.helpers.networks import tiny_model
from tests.helpers.rendered import Rendered
from tests.helpers.tiny import tiny_recipe

DASH = "\u2013"


def result(model, mious, **iou):
    """A result on 7 images of each domain; by default road has the mIoU and car half of it."""
    scores = []
    for name, miou in mious.items():
        values = {"IoU": iou or {"road": miou, "car": miou / 2, "train": None}, "aAcc": 88.0}
        places = {"label": name, "domain": name, "split": "val", "is_source": name == "town"}
        scores.append(DomainScore(**places, **values, images=7, mIoU=miou))
    return Result(model=model, protocol=Protocol(), scores=tuple(scores))


def make_report(merged=45.0, odd="", **changes):
    """Members reach 40 and 44 on the mean of the unseen domains, the merge ``merged``.

    Every name and text ends with ``odd``.
    """
    image = np.zeros((12, 24, 3), np.uint8)
    image[..., 0] = 200
    town, rain, night = (f"{name}{odd}" for name in ("town", "rain", "night"))
    init, plain, blur, average = (f"{name}{odd}" for name in ("init", "plain", "blur", "average"))
    values = {
        "title": f"A title{odd}",
        "intro": f"What this is.{odd}",
        "models": [
            ReportModel(init, "init", note=f"not fine-tuned{odd}"),
            ReportModel(plain, "member"),
            ReportModel(blur, "member", note="blurred images"),
            ReportModel(average, "merge"),
        ],
        "sources": [town],
        "targets": [rain, night],
        "results": [
            result(init, {town: 9.0, rain: 3.2}),
            result(plain, {town: 71.5, rain: 38.0, night: 42.0}),
            result(blur, {town: 70.3, rain: 43.0, night: 45.0}),
            result(average, {town: 72.9, rain: merged - 1, night: merged + 1}),
        ],
        "examples": [
            Example(night, f"frame 17{odd}", [Panel(f"in{odd}", image), Panel(average, image)])
        ],
        "curves": [
            TrainingCurve(plain, f"loss{odd}", [(0, 2.0), (100, 1.0), (200, float("nan"))]),
            TrainingCurve(blur, f"loss{odd}", [(100, 1.5)]),
        ],
        "details": {
            f"Commands{odd}": f"revt merge plain blur\nrevt evaluate average{odd}",
            "Seeds": "1, 2",
        },
    }
    return Report(**{**values, **changes})


def written(report, folder):
    """The page's HTML, and what it holds; its elements are balanced."""
    write_page(report, folder / "page.html")
    html = (folder / "page.html").read_text(encoding="utf-8")
    page = Rendered(html)
    assert page.open == []
    return html, page


def rows(page):
    """The cells of the main table by the beginning of a row's head."""
    return {row[0][0].split(" ")[0]: [text for text, *_ in row[1:]] for row in page.rows}


def test_a_page_byte_by_byte(tmp_path):
    """Numbers, bold, bars, curves and words are those of report.html, but for style and images."""
    html, page = written(make_report(), tmp_path)
    plain = re.sub("<(style|script)>.*?</\\1>\n", "", html, flags=re.DOTALL)
    plain = re.sub("'sha256-[^']+'", "'sha256-...'", plain)
    plain = re.sub('(?<=base64,)[^"]+', "", plain)
    check_text(plain, Path(__file__).with_name("report.html"))
    assert page.strong == ["72.9", "44.0", "46.0", "45.0"]


UP, DOWN, MINUS = "points above the", "points below the", "\u2212"


@pytest.mark.parametrize(
    ("merged", "mean", "best", "tiles"),
    [
        (45.0, f"3.0 {UP} mean", f"1.0 {UP} best", ["+3.0", "+1.0"]),
        (43.0, f"1.0 {UP} mean", f"1.0 {DOWN} best", ["+1.0", f"{MINUS}1.0"]),
        (41.0, f"1.0 {DOWN} mean", f"3.0 {DOWN} best", [f"{MINUS}1.0", f"{MINUS}3.0"]),
        (44.0, f"2.0 {UP} mean", "level with the best", ["+2.0", "\u00b10.0"]),
    ],
)
def test_the_headline_follows_the_numbers(tmp_path, merged, mean, best, tiles):
    _, page = written(make_report(merged), tmp_path)
    assert f"average reaches {merged} %" in page.text
    assert f"{mean} of its 2 members (42.0 %)" in page.text
    assert f"{best} member, blur (44.0 %)" in page.text
    assert re.findall(r"ReVT (\S+) points", page.text) == tiles
    if merged == 41.0:
        assert page.strong == ["43.0", "45.0", "44.0", "72.9"]


def test_the_headline_is_about_the_first_merge_and_names_the_others(tmp_path):
    report = make_report(41.0)
    told = [("x", "merge here reaches"), ("y", "merges here reach")]
    for number, (name, others) in enumerate(told):
        report.models.append(ReportModel(name, "merge"))
        report.results.append(result(name, {"rain": 50.0 + number, "night": 60.0}))
        report = replace(report)
        _, page = written(report, tmp_path)
        assert "average reaches 41.0 %" in page.text
        assert f"the other {others} 55.0 {'to 55.5 ' if number else ''}%." in page.text


def test_there_is_no_headline_without_all_scores(tmp_path):
    results = [*make_report().results]
    results[2] = result("blur", {"town": 70.3, "night": 45.0})
    _, page = written(make_report(results=results), tmp_path)
    assert "No comparison" in page.text
    assert "points above" not in page.text
    assert rows(page)["Mean"] == ["70.9", DASH, "43.5", DASH, DASH]


def test_one_target_needs_no_mean(tmp_path):
    results = [one.model_copy(update={"scores": one.scores[:2]}) for one in make_report().results]
    _, page = written(make_report(targets=["rain"], results=results, examples=[]), tmp_path)
    assert rows(page)["plain"] == ["71.5", "38.0", "+33.5"]
    assert "mean of unseen" not in page.text
    assert "the mIoU on the unseen domain rain" in page.text


def test_class_means_are_over_the_domains_that_all_models_share():
    results = [
        result("a", {"rain": 1.0}, road=80.0, car=10.0, train=None),
        result("a", {"night": 1.0}, road=60.0, car=20.0),
        result("b", {"rain": 1.0}, road=90.0, car=None, train=5.0),
        result("b", {"night": 1.0}, road=50.0, car=40.0),
    ]
    report = make_report(
        models=[ReportModel("a", "merge"), ReportModel("b", "member")], results=results
    )
    means = {"road": {"a": 70.0, "b": 70.0}, "car": {"a": 20.0, "b": 40.0}}
    assert report.class_means(["a", "b"]) == means


def test_images_are_embedded_with_alt_text_and_legend(tmp_path):
    wide = Example("rain", "wide", [Panel("in", np.zeros((500, 2000, 3), np.uint8))])
    html, page = written(make_report(examples=[*make_report().examples, wide]), tmp_path)
    # Domains go in the order of the table's columns; large images are scaled down.
    texts = ["in: rain, wide", "in: night, frame 17", "average: night, frame 17"]
    assert page.attributes("img", "alt") == texts
    assert page.attributes("img", "width") == ["960", "24", "24"]
    source = page.attributes("img", "src")[1]
    with Image.open(
        io.BytesIO(base64.b64decode(source.removeprefix("data:image/webp;base64,")))
    ) as image:
        assert image.size == (24, 12)
        assert abs(image.convert("RGB").getpixel((5, 5))[0] - 200) < 6
    legend = html[html.index('aria-label="Colours of the classes"') :].split("</ul>")[0]
    assert re.findall(r"</i>([^<]+)</li>", legend) == ["road", "car"]


def test_long_curves_are_thinned_to_their_means(tmp_path):
    points = [(step, float(step % 2)) for step in range(1000)]
    report = make_report(curves=[TrainingCurve("plain", "loss", points)])
    _, page = written(report, tmp_path)
    assert page.attributes("path", "d")[0].count("L") + 1 == 250
    assert "more than 300 points" in page.text


def test_empty_parts_have_no_section(tmp_path):
    _, page = written(make_report(), tmp_path)
    full = ["result", "scores", "classes", "scenes", "training", "making"]
    assert page.attributes("h2", "id") == full
    _, page = written(make_report(examples=[], curves=[], details={}), tmp_path)
    assert page.attributes("h2", "id") == full[:3]


def test_nothing_is_loaded_from_outside(tmp_path):
    (one,) = make_report().examples
    html, page = written(make_report(examples=[one, replace(one, name="frame 18")]), tmp_path)
    assert page.tags.isdisjoint({"iframe", "object", "embed"})
    # The one script is that of the policy, which lets no other run.
    (script,) = re.findall("<script[^>]*>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (text for text in page.attributes("meta", "content") if text and "src" in text)
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name)
    assert not re.search(r"https?:|@import|url\(", html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {value.removeprefix("#") for value in page.attributes("a", "href")}
    assert links and links <= set(ids)
    assert set(page.attributes("section", "aria-labelledby")) <= set(ids)


def test_everything_is_escaped(tmp_path):
    nasty = '<b>"x"</b>&\'{{ 7 * 7 }}{% if %}'
    report = make_report(odd=nasty)
    for score in (score for one in report.results for score in one.scores):
        score.iou[f"class{nasty}"] = 3.0
    html, page = written(report, tmp_path)
    assert f"class{nasty} 3.0" in page.text
    assert "<b>&" not in html and '<b>"' not in html
    assert page.text.count(nasty) > 20
    assert page.attributes("img", "alt")[0] == f"in{nasty}: night{nasty}, frame 17{nasty}"
    # The only <b> are those of the layout: tiles and class values hold numbers.
    assert all(re.fullmatch(r"[\d.]+ ?", text) for text in re.findall(r"<b>([^<]*)<", html))


def test_the_page_replaces_the_old_one_only_when_complete(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")
    written(make_report(), tmp_path)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UserError, match="cannot write"):
        write_page(make_report(title="Newer"), path)
    assert "A title" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": []}, "one unseen"),
        ({"sources": []}, "one source"),
        ({"targets": ["rain", "night", "town"]}, "'town' is listed twice"),
        ({"models": [ReportModel("init", "init")] * 2}, "'init' is listed twice"),
        ({"results": [result("guest", {"rain": 1.0})]}, "'guest', which is not a model"),
        ({"results": [result("plain", {"sea": 1.0})]}, "'sea', which is not a domain"),
        ({"results": [result("plain", {"town": 1.0})] * 2}, "two scores of plain on town"),
    ],
)
def test_reports_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_report(**changes)


SMALL = {"val_images": 2, "size": [64, 128]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Initial weights, two members and their merge."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("init", "a", "b")):
        tiny_model(seed).save_pretrained(root / name)
    merge([root / "a", root / "b"], root / "revt")
    return root


def test_a_report_of_folders(capsys, folders, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    source = {"domain": "streets", "options": SMALL}
    target = {**source, "config": "fog"}
    recipe.write_text(tiny_recipe(source=source, targets=[target]).to_yaml())
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "val_mIoU": 3.0}]
    (folders / "a" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page, numbers = tmp_path / "page.html", tmp_path / "results.json"
    models = [folders / "revt", f"first={folders / 'a'}", folders / "b"]
    arguments = [*models, "--init", folders / "init", "--recipe", recipe, "--max-size", "native"]
    code, out, error = revt(
        capsys, "report", *arguments, "--output", page, "--json", numbers, "--quiet"
    )
    assert code == 0, error
    assert out == f"open {page}\n"
    results = read_results([numbers])
    assert [one.model for one in results] == ["init", "first", "b", "revt"]
    assert [score.label for score in results[0].scores] == ["source/val", "fog/val"]
    shown = Rendered(page.read_text())
    heads = [row[0][0] for row in shown.rows[2:]]
    assert heads == ["init", "first", "b", "Mean of members", "revt"]
    titles = ["input", "ground truth", "first", "b", "revt"]
    assert [text.split(":")[0] for text in shown.attributes("img", "alt")] == titles
    assert "training loss" in shown.text and "source-val mIoU" in shown.text
    assert "Images: native size; logits resized" in shown.text
    assert "calibration" not in shown.attributes("h2", "id")
    assert "is written" in refused(capsys, "report", *arguments, "--output", tmp_path / "page.pdf")
    page = tmp_path / "calibrated.html"
    more = ["--output", page, "--calibration", "--quiet"]
    code, _, error = revt(capsys, "report", *arguments, *more)
    assert code == 0, error
    assert "calibration" in Rendered(page.read_text()).attributes("h2", "id")


@pytest.mark.parametrize(("names", "lacking"), [(["revt"], "member"), (["a", "b"], "merge")])
def test_a_report_needs_members_and_merges(folders, names, lacking):
    with pytest.raises(UserError, match=f"name at least one {lacking}"):
        report_models({name: str(folders / name) for name in names})
