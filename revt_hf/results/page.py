"""A report as one self-contained HTML file."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from revt_hf.core.outputs import write_text
from revt_hf.data.labels import CLASSES
from revt_hf.results.charts import class_bars, curve_charts, swatch
from revt_hf.results.formats import render
from revt_hf.results.layout import Cell, Heading, TableLayout
from revt_hf.results.report import Report, ReportModel
from revt_hf.results.summary import (
    DASH,
    best_rows,
    difference,
    gap,
    mean_or_none,
    shown,
    signed,
)

_MAX_IMAGE_WIDTH = 960


def write_page(report: Report, path: Path) -> None:
    """Write a report as one HTML file without scripts or outside resources, atomically."""
    result = headline(report)
    page = render(
        "report.html.jinja",
        report=report,
        tiles=_tiles(result) if result else [],
        verdict=_verdict(report, result) if result else "",
        verdict_note=_verdict_note(report, result) if result else "",
        scores=score_layout(report),
        gap_note=_gap_note(report),
        classes=class_bars(report),
        domains=_examples(report),
        charts=curve_charts(report),
        swatch=swatch,
    )
    write_text(path, page)


def score_layout(report: Report) -> TableLayout:
    """mIoU of every model on every domain, with means, gaps and bars."""
    several = len(report.targets) > 1
    unseen = f"unseen domain{'s' if several else ''}"
    headings = [
        Heading("Model", "name"),
        *(Heading(d, "source", "", "source val", _images(report, d)) for d in report.sources),
        *(Heading(d, "target", "", unseen, _images(report, d)) for d in report.targets),
    ]
    if several:
        headings.append(Heading("mean of unseen", "mean", area=unseen))
    headings.append(Heading("gap", "gap", note="source \u2212 unseen"))

    values = {model.name: _values(report, model.name, several) for model in report.models}
    columns = zip(*values.values(), strict=True)
    best = [{[*values][row] for row in best_rows(column)} for column in columns]
    rows: list[tuple[Cell, ...]] = []
    kinds: list[str] = []
    members = report.names("member")
    for kind in ("init", "member", "merge"):
        for model in report.models:
            if model.kind == kind:
                rows.append(_row(report, model, values[model.name], best))
                kinds.append(kind)
        if kind == "member" and len(members) > 1:
            means = [mean_or_none(column) for column in zip(*map(values.get, members), strict=True)]
            rows.append((Cell("Mean of members"), *_cells(report, means)))
            kinds.append("summary")
    dash = f"{DASH}: no score{', and no mean over domains without it' if several else ''}."
    note = f"mIoU in %, bars from 0 to 100. Bold: the best of a column. {dash}"
    return TableLayout("", tuple(headings), tuple(rows), (note,), tuple(kinds))


def _values(report: Report, model: str, several: bool) -> list[float | None]:
    values = [report.miou(model, domain) for domain in report.domains]
    return [*values, report.unseen(model)] if several else values


def _row(
    report: Report, model: ReportModel, values: list[float | None], best: list[set[str]]
) -> tuple[Cell, ...]:
    notes = []
    for domain in report.domains:
        score = report.score(model.name, domain)
        notes.append(f"aAcc {shown(score.aacc)} %, {score.images} images" if score else "")
    marks = [model.name in names for names in best]
    return (Cell(model.name, note=model.note), *_cells(report, values, marks, notes))


def _cells(
    report: Report,
    values: list[float | None],
    marks: list[bool] | None = None,
    notes: list[str] | None = None,
) -> list[Cell]:
    """Scores as text with bars, and the gap between source and unseen domains."""
    marks = marks or [False] * len(values)
    notes = (notes or []) + [""] * len(values)
    cells = [
        Cell(shown(value), mark, note, value)
        for value, mark, note in zip(values, marks, notes, strict=False)
    ]
    source = mean_or_none(values[: len(report.sources)])
    return [*cells, Cell(signed(gap(source, values[-1])))]


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
    members: int
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
    return Headline(merges[0], known[merges[0]], len(members), mean, best, known[best])


def _tiles(result: Headline) -> list[tuple[str, str, str]]:
    """Label, text below and value of each tile."""
    to_mean = signed(difference(result.merge_miou, result.members_miou))
    to_best = signed(difference(result.merge_miou, result.best_miou))
    best = f"Best member: {result.best_member}"
    return [
        (result.merge, "mIoU on unseen domains", shown(result.merge_miou)),
        ("Mean of members", f"ReVT {to_mean} points", shown(result.members_miou)),
        (best, f"ReVT {to_best} points", shown(result.best_miou)),
    ]


def _verdict(report: Report, result: Headline) -> str:
    count, names = len(report.targets), ", ".join(report.targets)
    where = f"the {count} unseen domains ({names})" if count > 1 else f"the unseen domain {names}"
    measure = f"the mean mIoU over {where}" if count > 1 else f"the mIoU on {where}"
    plural = f"its {result.members} members" if result.members > 1 else "its only member"
    return (
        f"{result.merge} reaches {shown(result.merge_miou)} %, {measure}: "
        f"{_compared(result.merge_miou, result.members_miou)} the mean of {plural} "
        f"({shown(result.members_miou)} %) and {_compared(result.merge_miou, result.best_miou)} "
        f"the best member, {result.best_member} ({shown(result.best_miou)} %)."
    )


def _compared(value: float, reference: float) -> str:
    delta = difference(value, reference)
    if delta == 0:
        return "level with"
    return f"{abs(delta):.1f} points {'above' if delta > 0 else 'below'}"


def _verdict_note(report: Report, result: Headline) -> str:
    notes = []
    if result.members > 1:
        notes.append(
            "Which member is best was found with the labels of the unseen domains, "
            "so it could not have been picked beforehand without them."
        )
    others = [report.unseen(name) for name in report.names("merge")[1:]]
    scored = [value for value in others if value is not None]
    if scored:
        reached = (
            f"with another head it reaches {shown(scored[0])} %."
            if len(scored) == 1
            else f"with other heads it reaches {shown(min(scored))} to {shown(max(scored))} %."
        )
        notes.append(f"The ReVT named here is the first one listed, not picked by score; {reached}")
    return " ".join(notes)


def _gap_note(report: Report) -> str:
    members = report.names("member")
    gaps = {name: gap(report.source(name), report.unseen(name)) for name in report.names("merge")}
    gaps["mean of members"] = gap(
        mean_or_none([report.source(name) for name in members]),
        mean_or_none([report.unseen(name) for name in members]),
    )
    known = [f"{name} {signed(value)}" for name, value in gaps.items() if value is not None]
    if not known:
        return ""
    source = report.sources[0] if len(report.sources) == 1 else "the mean of the sources"
    unseen = "the mean of the unseen domains" if len(report.targets) > 1 else report.targets[0]
    return (
        f"Gap, {source} minus {unseen}, in points: {', '.join(known)}. "
        "It also shrinks when a model gets worse on the source, so read it with the scores."
    )


def _examples(report: Report) -> list[dict[str, Any]]:
    """Each domain's name, examples (anchor, name, images as data URLs) and legend."""
    order = [*report.targets, *report.sources, *(example.domain for example in report.examples)]
    domains, number = [], 0
    for domain in dict.fromkeys(order):
        examples = []
        for example in report.examples:
            if example.domain != domain or not example.panels:
                continue
            back, figures = f"scene-{number + 1}", []
            for panel in example.panels:
                number += 1
                thumbnail = Image.fromarray(panel.image)
                thumbnail.thumbnail((_MAX_IMAGE_WIDTH, thumbnail.height), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                thumbnail.save(buffer, format="WEBP", quality=82, method=4)
                text = base64.b64encode(buffer.getvalue()).decode("ascii")
                figures.append(
                    {
                        "key": f"image-{number}",
                        "title": panel.title,
                        "text": f"{panel.title}: {domain}, {example.name}",
                        "data": f"data:image/webp;base64,{text}",
                        "width": thumbnail.width,
                        "height": thumbnail.height,
                        "is_merge": panel.title in report.names("merge"),
                    }
                )
            examples.append((back, example.name, figures))
        if examples:
            present = report.classes(domain)
            legend = [name for name in CLASSES if name in present]
            domains.append({"name": domain, "examples": examples, "legend": legend})
    return domains
