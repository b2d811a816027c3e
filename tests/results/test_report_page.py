"""The report page."""

import base64
import io
import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from revt_hf.core.errors import UserError
from revt_hf.results.page import Curve, Model, Panel, Report, Scene, write_page
from revt_hf.results.report import headline
from revt_hf.results.summary import Score

VOID = {"meta", "link", "img", "hr", "br"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether the tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def attributes(self, tag: str, name: str) -> list[str | None]:
        return [attrs.get(name) for found, attrs in self.tags if found == tag]


def scores(revt: float) -> list[Score]:
    """Members reach 40 and 44 on the mean of the unseen domains, the ReVT ``revt``."""
    values = {
        "init": {"town": 9.0, "rain": 3.2},
        "plain": {"town": 71.5, "rain": 38.0, "night": 42.0},
        "blur": {"town": 70.3, "rain": 43.0, "night": 45.0},
        "average": {"town": 72.9, "rain": revt - 1, "night": revt + 1},
    }
    return [
        Score(model, domain, miou, {"road": miou, "car": miou / 2, "train": None}, 88.0, 7)
        for model, row in values.items()
        for domain, miou in row.items()
    ]


def make_report(revt: float = 45.0) -> Report:
    image = np.zeros((12, 24, 3), np.uint8)
    image[..., 0] = 200
    return Report(
        title="A title",
        intro="What this is.",
        models=[
            Model("init", "init", "not fine-tuned"),
            Model("plain", "member"),
            Model("blur", "member", "blurred images"),
            Model("average", "revt"),
        ],
        sources=["town"],
        targets=["rain", "night"],
        scores=scores(revt),
        scenes=[Scene("night", "frame 17", [Panel("Input", image), Panel("average", image)])],
        curves=[
            Curve("plain", "loss", [(0, 2.0), (100, 1.0), (200, float("nan"))]),
            Curve("blur", "loss", [(100, 1.5)]),
        ],
        details={"Commands": "revt merge plain blur\nrevt evaluate average", "Seeds": "1 and 2"},
    )


def written(report: Report, folder: Path) -> tuple[str, Page]:
    path = folder / "page.html"
    write_page(report, path)
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def rows(html: str) -> dict[str, list[str]]:
    """The main table: first word of a row's head -> its cells' texts."""
    table = html[html.index("<table>") : html.index("</table>")]
    found = {}
    for row in re.findall(r"<tr.*?</tr>", table):
        head = re.search(r'<th scope="row">([^<]*)', row)
        if head:
            cells = re.findall(r"<td.*?</td>", row)
            found[head[1]] = [re.sub(r"<(?!/?strong)[^>]*>", "", cell) for cell in cells]
    return found


def bold(values: Iterable[str]) -> list[bool]:
    return ["<strong>" in value for value in values]


def test_table_has_every_model_and_number(tmp_path: Path) -> None:
    html, page = written(make_report(), tmp_path)
    table = rows(html)
    assert table["init"] == ["9.0", "3.2", "–", "–", "–"]  # noqa: RUF001
    assert table["plain"] == ["71.5", "38.0", "42.0", "40.0", "+31.5"]
    assert table["blur"] == ["70.3", "43.0", "45.0", "44.0", "+26.3"]
    assert table["Mean of members"] == ["70.9", "40.5", "43.5", "42.0", "+28.9"]
    assert bold(table["average"]) == [True, True, True, True, False]
    assert re.sub("</?strong>", "", " ".join(table["average"])) == "72.9 44.0 46.0 45.0 +27.9"
    for text in ("town", "rain", "night", "7 images", "blurred images", "not fine-tuned"):
        assert text in page.text
    assert 'class="init"' in html


def test_best_follows_the_numbers(tmp_path: Path) -> None:
    html, _ = written(make_report(revt=41.0), tmp_path)
    table = rows(html)
    assert bold(table["average"]) == [True, False, False, False, False]
    assert bold(table["blur"]) == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("revt", "mean", "best", "tiles"),
    [
        (45.0, "3.0 points above the mean", "1.0 points above the best", ["+3.0", "+1.0"]),
        (43.0, "1.0 points above the mean", "1.0 points below the best", ["+1.0", "\u22121.0"]),
        (
            41.0,
            "1.0 points below the mean",
            "3.0 points below the best",
            ["\u22121.0", "\u22123.0"],
        ),
        (44.0, "2.0 points above the mean", "level with the best", ["+2.0", "\u00b10.0"]),
    ],
)
def test_headline_follows_the_numbers(
    tmp_path: Path, revt: float, mean: str, best: str, tiles: list[str]
) -> None:
    _, page = written(make_report(revt), tmp_path)
    assert f"average reaches {revt} %" in page.text
    assert f"{mean} of its 2 members (42.0 %)" in page.text
    assert f"{best} member, blur (44.0 %)" in page.text
    assert re.findall(r"ReVT (\S+) points", page.text) == tiles


def test_headline_is_of_the_first_revt_and_tells_the_others(tmp_path: Path) -> None:
    report = make_report(41.0)
    report = replace(
        report,
        models=[*report.models, Model("other", "revt")],
        scores=[
            *report.scores,
            Score("other", "rain", 50.0, {}, 90.0, 7),
            Score("other", "night", 60.0, {}, 90.0, 7),
        ],
    )
    _, page = written(report, tmp_path)
    assert "average reaches 41.0 %" in page.text
    assert "with another head it reaches 55.0 %" in page.text


def test_no_headline_without_all_scores(tmp_path: Path) -> None:
    report = make_report()
    lacking = [score for score in report.scores if (score.model, score.domain) != ("blur", "rain")]
    report = replace(report, scores=lacking)
    assert headline(report) is None
    html, page = written(report, tmp_path)
    assert "No comparison" in page.text
    assert "points above" not in page.text
    assert rows(html)["Mean of members"] == ["70.9", "–", "43.5", "–", "–"]  # noqa: RUF001


def test_one_target_needs_no_mean(tmp_path: Path) -> None:
    report = make_report()
    rain = [score for score in report.scores if score.domain != "night"]
    html, page = written(replace(report, targets=["rain"], scores=rain, scenes=[]), tmp_path)
    assert rows(html)["plain"] == ["71.5", "38.0", "+33.5"]
    assert "mean of unseen" not in page.text
    assert "the mIoU on the unseen domain rain" in page.text


def test_class_bars_show_members_and_means(tmp_path: Path) -> None:
    html, page = written(make_report(), tmp_path)
    assert "car: average 22.5, mean of members 21.0; plain 20.0, blur 22.0" in html
    assert 'class="bar accent" style="width:45.00%"' in html
    assert 'class="bar grey" style="width:42.00%"' in html
    assert 'style="left:40.00%" title="plain: 40.0"' in html
    assert "road 45.0 42.0 +3.0" in page.text
    absent = re.search(r"Without such a value: ([^.]*)\.", page.text)
    assert absent is not None
    assert "train" in absent[1].split(", ")
    assert "road" not in absent[1].split(", ")


def test_images_are_embedded_with_alt_text_and_legend(tmp_path: Path) -> None:
    html, page = written(make_report(), tmp_path)
    assert page.attributes("img", "alt") == ["Input: night, frame 17", "average: night, frame 17"]
    source = page.attributes("img", "src")[0] or ""
    data = base64.b64decode(source.removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (24, 12)
        assert abs(image.convert("RGB").getpixel((5, 5))[0] - 200) < 6  # type: ignore[index]
    legend = html[html.index('aria-label="Colours of the classes"') :].split("</ul>")[0]
    assert re.findall(r"</i>([^<]+)</li>", legend) == ["road", "car"]


def test_large_images_are_scaled_down(tmp_path: Path) -> None:
    panel = Panel("Input", np.zeros((500, 2000, 3), np.uint8))
    report = replace(make_report(), scenes=[Scene("rain", "wide", [panel])])
    _, page = written(report, tmp_path)
    assert page.attributes("img", "width") == ["960"]
    assert page.attributes("img", "height") == ["240"]


def test_curves_draw_finite_points(tmp_path: Path) -> None:
    html, page = written(make_report(), tmp_path)
    paths = page.attributes("path", "d")
    # Steps 0 and 100 of 200; the loss's axis goes from 1 to 2.
    assert paths == ["M0.0 0.0 L500.0 1000.0", "M500.0 500.0 L500.0 500.0"]
    assert "nan" not in html.split("</style>")[1].lower()
    assert "last values: plain 1, blur 1.5" in html


def test_long_curves_are_thinned_to_their_means(tmp_path: Path) -> None:
    points = [(step, float(step % 2)) for step in range(1000)]
    report = replace(make_report(), curves=[Curve("plain", "loss", points)])
    _, page = written(report, tmp_path)
    path = page.attributes("path", "d")[0] or ""
    assert path.count("L") + 1 == 250
    assert "more than 300 points" in page.text


def test_empty_parts_have_no_section(tmp_path: Path) -> None:
    _, full = written(make_report(), tmp_path)
    _, page = written(replace(make_report(), scenes=[], curves=[], details={}), tmp_path)
    assert full.attributes("h2", "id") == [
        "result",
        "scores",
        "classes",
        "scenes",
        "training",
        "making",
    ]
    assert page.attributes("h2", "id") == ["result", "scores", "classes"]


def test_nothing_is_loaded_from_outside(tmp_path: Path) -> None:
    report = make_report()
    report = replace(report, scenes=[*report.scenes, replace(report.scenes[0], name="frame 18")])
    html, page = written(report, tmp_path)
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed"}
        for name in ("src", "href", "srcset", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name)
    assert not re.search(r"https?:|@import|url\(", html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {value for value in page.attributes("a", "href") if value}
    assert links and {link.removeprefix("#") for link in links} <= set(ids)
    labelled = page.attributes("section", "aria-labelledby")
    assert set(labelled) <= set(ids)


def test_everything_is_escaped(tmp_path: Path) -> None:
    nasty = '<b>"x"</b>&$title'
    names = {"init": nasty + "0", "plain": nasty + "1", "blur": nasty + "2", "average": nasty}
    report = make_report()
    report = replace(
        report,
        title=nasty,
        intro=nasty,
        models=[replace(model, name=names[model.name], note=nasty) for model in report.models],
        sources=[nasty + "town"],
        targets=[nasty + "rain", nasty + "night"],
        scores=[
            replace(
                score,
                model=names[score.model],
                domain=nasty + score.domain,
                iou={**score.iou, nasty: 3.0},
            )
            for score in report.scores
        ],
        scenes=[
            Scene(nasty + "night", nasty, [Panel(nasty, scene.panels[0].image)])
            for scene in report.scenes
        ],
        curves=[Curve(names[curve.model], nasty, curve.points) for curve in report.curves],
        details={nasty: nasty},
    )
    html, page = written(report, tmp_path)
    assert "<b>&" not in html and '<b>"' not in html
    assert nasty in page.text
    assert page.attributes("img", "alt") == [f"{nasty}: {nasty}night, {nasty}"]
    # The only <b> are those of the layout: tiles and class values hold numbers.
    assert all(re.fullmatch(r"[\d.]+ ?", text) for text in re.findall(r"<b>([^<]*)<", html))


def test_page_replaces_the_old_one_only_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    replaced = []
    original = Path.replace

    def watch(self: Path, target: Path) -> Path:
        assert path.read_text() == "old"
        assert self.parent == tmp_path
        assert self.read_text(encoding="utf-8").rstrip().endswith("</html>")
        replaced.append(self)
        return original(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    write_page(make_report(), path)
    assert len(replaced) == 1
    assert "A title" in path.read_text(encoding="utf-8")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UserError, match="cannot write"):
        write_page(replace(make_report(), title="Newer"), path)
    assert "Newer" not in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_reports_that_do_not_fit_together_are_refused() -> None:
    report = make_report()
    stray = Score("stranger", "rain", 1.0, {}, 1.0, 1)
    for changes, message in (
        ({"targets": []}, "one unseen"),
        ({"sources": []}, "one source"),
        ({"targets": ["rain", "night", "town"]}, "'town' is listed twice"),
        ({"models": [*report.models, report.models[0]]}, "'init' is listed twice"),
        ({"scores": [*report.scores, stray]}, "'stranger', which is not a model"),
        ({"scores": [replace(stray, model="plain", domain="sea")]}, "'sea', which is not a dom"),
    ):
        with pytest.raises(UserError, match=message):
            replace(report, **changes)
    with pytest.raises(UserError, match="kind 'teacher'"):
        Model("m", "teacher")  # type: ignore[arg-type]
