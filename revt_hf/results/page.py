"""A report as one self-contained HTML file; its sentences are in the template."""

import base64
import hashlib
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from revt_hf.core.outputs import write_text
from revt_hf.data.label_space import CITYSCAPES
from revt_hf.results.charts import MAX_POINTS, curve_charts, reliability_diagrams
from revt_hf.results.formats import render
from revt_hf.results.layout import (
    Cell,
    Heading,
    TableLayout,
    best_rows,
    difference,
    gap,
    mean_or_none,
    shown,
    signed,
)
from revt_hf.results.report import Report
from revt_hf.results.sheets import Panel

_MAX_IMAGE_WIDTH = 960
_COLOURS = 8


def write_page(report: Report, path: Path) -> None:
    """Write a report as one HTML file without outside resources, atomically.

    Without JavaScript all images are there; its one script, named by its hash in the page's policy,
    lays two of them over each other.
    """
    order = [*report.targets, *report.sources, *(example.domain for example in report.examples)]
    script = hashlib.sha256(render("compare.js.jinja").encode())
    page = render(
        "report.html.jinja",
        script_hash=f"sha256-{base64.b64encode(script.digest()).decode()}",
        report=report,
        members=report.names("member"),
        result=headline(report),
        other_merges=[report.unseen(name) for name in report.names("merge")[1:]],
        scores=score_layout(report),
        gaps=_gaps(report),
        bars=class_bars(report),
        classes=list(report.colours),
        is_cityscapes=report.colours == CITYSCAPES.by_name,
        domains={
            domain: [one for one in report.examples if one.domain == domain and one.panels]
            for domain in dict.fromkeys(order)
        },
        diagrams=reliability_diagrams(report),
        charts=curve_charts(report),
        max_points=MAX_POINTS,
        style=partial(style_of, report),
        swatch=partial(swatch, report),
        image=image_data,
        shown=shown,
        signed=signed,
        difference=difference,
    )
    write_text(path, page)


def score_layout(report: Report) -> TableLayout:
    several = len(report.targets) > 1
    unseen = f"unseen domain{'s' if several else ''}"
    headings = [
        Heading("Model", "name"),
        *(Heading(d, "source", "", "source val", _images(report, d)) for d in report.sources),
        *(Heading(d, "target", "", unseen, _images(report, d)) for d in report.targets),
        *([Heading("mean of unseen", "mean", area=unseen)] if several else []),
        Heading("gap", "gap", note="source \u2212 unseen"),
    ]
    order = ("init", "member", "merge", "ensemble")
    models = [m for kind in order for m in report.models if m.kind == kind]
    values = {
        model.name: [
            *(report.miou(model.name, domain) for domain in report.domains),
            *([report.unseen(model.name)] if several else []),
        ]
        for model in models
    }
    best = [best_rows(column) for column in zip(*values.values(), strict=True)]
    rows: list[tuple[Cell, ...]] = []
    for row, model in enumerate(models):
        cells = [Cell(model.name, note=model.note)]
        for column, value in enumerate(values[model.name]):
            score = report.score(model.name, [*report.domains, ""][column])
            note = f"aAcc {shown(score.aacc)} %, {score.images} images" if score else ""
            cells.append(Cell(shown(value), row in best[column], note, value))
        rows.append((*cells, _gap_cell(report, values[model.name])))
    kinds = [str(model.kind) for model in models]
    members = report.names("member")
    if len(members) > 1:
        at = kinds.index("member") + len(members)
        means = [mean_or_none(column) for column in zip(*map(values.get, members), strict=True)]
        cells = [Cell("Mean of members"), *(Cell(shown(mean), bar=mean) for mean in means)]
        rows.insert(at, (*cells, _gap_cell(report, means)))
        kinds.insert(at, "summary")
    return TableLayout("", tuple(headings), tuple(rows), kinds=tuple(kinds))


def _gap_cell(report: Report, values: list[float | None]) -> Cell:
    return Cell(signed(gap(mean_or_none(values[: len(report.sources)]), values[-1])))


def _images(report: Report, domain: str) -> str:
    counts = sorted({score.images for score in report.on(domain)})
    if not counts:
        return "no score"
    # Models scored on different images are not comparable: show it rather than hide it.
    span = f"{counts[0]}\u2013{counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"{span} image{'s' if counts != [1] else ''}"


@dataclass(frozen=True)
class Headline:
    """The first merge, the members' mean, and the member that is best on these very domains."""

    merge: str
    merge_miou: float
    members_miou: float
    best_member: str
    best_miou: float


def headline(report: Report) -> Headline | None:
    """The mean mIoU over the unseen domains; None without merge, members or one of the scores."""
    merges, members = report.names("merge")[:1], report.names("member")
    unseen = {name: report.unseen(name) for name in [*merges, *members]}
    known = {name: value for name, value in unseen.items() if value is not None}
    if not merges or not members or len(known) < len(unseen):
        return None
    best = max(members, key=lambda name: known[name])
    mean = sum(known[name] for name in members) / len(members)
    return Headline(merges[0], known[merges[0]], mean, best, known[best])


def _gaps(report: Report) -> dict[str, float]:
    """The known gaps of merges and of the members' mean between source and unseen domains."""
    members = report.names("member")
    gaps = {name: gap(report.source(name), report.unseen(name)) for name in report.names("merge")}
    gaps["mean of members"] = gap(
        mean_or_none([report.source(name) for name in members]),
        mean_or_none([report.unseen(name) for name in members]),
    )
    return {name: value for name, value in gaps.items() if value is not None}


def image_data(panel: Panel, effort: int = 4) -> tuple[str, int, int]:
    """An image as data URL, scaled down if it is large, and its width and height.

    ``effort`` is WebP's: 0 is fast, 6 small.
    """
    image = Image.fromarray(panel.image)
    image.thumbnail((_MAX_IMAGE_WIDTH, image.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=82, method=effort)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{text}", image.width, image.height


def swatch(report: Report, name: str) -> str | None:
    """A class's colour as CSS; None for a class that the models do not have."""
    if name not in report.colours:
        return None
    red, green, blue = report.colours[name]
    return f"rgb({red} {green} {blue})"


def style_of(report: Report, model: str) -> str:
    """The CSS class that colours a model's marks, the same in all charts."""
    first, *merges = report.names("merge") or [""]
    coloured = [*report.names("member"), *merges, *report.names("ensemble")]
    if model in coloured:
        return f"c{coloured.index(model) % _COLOURS}"
    return "accent" if model == first else "grey"


@dataclass(frozen=True)
class ClassBar:
    """The IoU of one class: of the first merge, the members' mean, and each member's."""

    name: str
    merge: float
    mean: float
    members: dict[str, float]


def class_bars(report: Report) -> list[ClassBar]:
    merges, members = report.names("merge")[:1], report.names("member")
    if not merges or not members:
        return []
    means = report.class_means([*merges, *members])
    known = [name for name in report.colours if name in means]
    bars = []
    for name in [*known, *sorted(name for name in means if name not in report.colours)]:
        each = {member: means[name][member] for member in members}
        mean = mean_or_none([*each.values()]) or 0.0
        bars.append(ClassBar(name, means[name][merges[0]], mean, each))
    return bars
