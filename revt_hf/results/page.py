"""A report as one self-contained HTML file."""

import base64
import io
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from revt_hf.core.outputs import write_text
from revt_hf.data.labels import CLASSES
from revt_hf.results.charts import class_bars, curve_charts, swatch
from revt_hf.results.report import (
    Curve,
    Headline,
    Model,
    Report,
    Scene,
    headline,
    legend_classes,
)
from revt_hf.results.result_table import result_table
from revt_hf.results.sheets import Panel
from revt_hf.results.summary import difference, gap, mean_or_none, shown, signed

__all__ = ["Curve", "Model", "Panel", "Report", "Scene", "write_page"]

_MAX_IMAGE_WIDTH = 960


def write_page(report: Report, path: Path) -> None:
    """Write a report as one HTML file without scripts or outside resources, atomically.

    Args:
        report: the contents.
        path: the file to write; an older one is replaced.

    Raises:
        UserError: two scores of the same model on the same domain, or a path that cannot be
            written.
    """
    sections = [
        ("result", "Result", _headline(report)),
        ("scores", "Scores per domain", result_table(report) + _gap(report)),
        ("classes", "IoU per class", class_bars(report)),
        ("scenes", "Predictions", _scenes(report)),
        ("training", "Training", curve_charts(report)),
        ("making", "How this was made", _details(report)),
    ]
    resources = files("revt_hf.results")
    template = Template(resources.joinpath("page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(report.title),
        intro=escape(report.intro),
        style=resources.joinpath("page.css").read_text(encoding="utf-8"),
        sections="\n".join(
            f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>\n{body}\n</section>'
            for key, title, body in sections
            if body
        ),
    )
    write_text(path, page)


def _headline(report: Report) -> str:
    result = headline(report)
    if result is None:
        return (
            "<p>No comparison: it needs a ReVT and members that are all scored on every unseen "
            "domain.</p>"
        )
    count = len(report.targets)
    names = ", ".join(report.targets)
    where = f"the {count} unseen domains ({names})" if count > 1 else f"the unseen domain {names}"
    measure = f"the mean mIoU over {where}" if count > 1 else f"the mIoU on {where}"
    plural = f"its {result.members} members" if result.members > 1 else "its only member"
    verdict = (
        f"{result.revt} reaches {shown(result.revt_miou)} %, {measure}: "
        f"{_compared(result.revt_miou, result.members_miou)} the mean of {plural} "
        f"({shown(result.members_miou)} %) and {_compared(result.revt_miou, result.best_miou)} "
        f"the best member, {result.best_member} ({shown(result.best_miou)} %)."
    )
    notes = []
    if result.members > 1:
        notes.append(
            "Which member is best was found with the labels of the unseen domains, "
            "so it could not have been picked beforehand without them."
        )
    others = [report.board().unseen(name) for name in report.names("revt")[1:]]
    scored = [value for value in others if value is not None]
    if scored:
        notes.append(
            "The ReVT named here is the first one listed, not picked by its scores; "
            + (
                f"with another head it reaches {shown(scored[0])} %."
                if len(scored) == 1
                else f"with other heads it reaches {shown(min(scored))} to {shown(max(scored))} %."
            )
        )
    note = f'<p class="note">{escape(" ".join(notes))}</p>' if notes else ""
    return f"{_tiles(result)}<p>{escape(verdict)}</p>{note}"


def _tiles(result: Headline) -> str:
    versus_mean = signed(difference(result.revt_miou, result.members_miou))
    versus_best = signed(difference(result.revt_miou, result.best_miou))
    tiles = [
        (result.revt, "mIoU on unseen domains", result.revt_miou),
        ("Mean of members", f"ReVT {versus_mean} points", result.members_miou),
        (f"Best member: {result.best_member}", f"ReVT {versus_best} points", result.best_miou),
    ]
    items = "".join(
        f'<li><span class="label">{escape(label)}</span><b>{shown(value)} <small>%</small></b>'
        f'<span class="sub">{escape(below)}</span></li>'
        for label, below, value in tiles
    )
    return f'<ul class="tiles">{items}</ul>'


def _compared(value: float, reference: float) -> str:
    delta = difference(value, reference)
    if delta == 0:
        return "level with"
    return f"{abs(delta):.1f} points {'above' if delta > 0 else 'below'}"


def _gap(report: Report) -> str:
    board = report.board()
    members = report.names("member")
    gaps = {name: gap(board.source(name), board.unseen(name)) for name in report.names("revt")}
    gaps["mean of members"] = gap(
        mean_or_none([board.source(name) for name in members]),
        mean_or_none([board.unseen(name) for name in members]),
    )
    known = [f"{name} {signed(value)}" for name, value in gaps.items() if value is not None]
    if not known:
        return ""
    source = report.sources[0] if len(report.sources) == 1 else "the mean of the sources"
    unseen = "the mean of the unseen domains" if len(report.targets) > 1 else report.targets[0]
    text = (
        f"Gap, {source} minus {unseen}, in points: {', '.join(known)}. "
        "It also shrinks when a model gets worse on the source, so read it with the scores."
    )
    return f'<p class="note">{escape(text)}</p>'


def _scenes(report: Report) -> str:
    board = report.board()
    order = [*report.targets, *report.sources, *(scene.domain for scene in report.scenes)]
    blocks = []
    number = 0
    for domain in dict.fromkeys(order):
        scenes = []
        for scene in report.scenes:
            if scene.domain == domain and scene.panels:
                figures = []
                back = f"scene-{number + 1}"
                for panel in scene.panels:
                    number += 1
                    figures.append(_figure(report, scene, panel, f"image-{number}", back))
                scenes.append(
                    f'<div class="scene" id="{back}"><p class="scene-name">{escape(scene.name)}</p>'
                    f'<div class="panels">{"".join(figures)}</div></div>'
                )
        if scenes:
            legend = "".join(
                f"<li>{swatch(name)}{escape(name)}</li>"
                for name in legend_classes(board, domain, CLASSES)
            )
            key = f'<ul class="key" aria-label="Colours of the classes">{legend}</ul>'
            blocks.append(
                f'<div class="domain"><h3>{escape(domain)}</h3>{"".join(scenes)}'
                f"{key if legend else ''}</div>"
            )
    if not blocks:
        return ""
    note = '<p class="note">Colours are the Cityscapes classes. Select an image to enlarge it.</p>'
    return note + "".join(blocks)


def _figure(report: Report, scene: Scene, panel: Panel, key: str, back: str) -> str:
    data, width, height = _embedded(panel.image)
    text = escape(f"{panel.title}: {scene.domain}, {scene.name}")
    style = ' class="revt"' if panel.title in report.names("revt") else ""
    return (
        f'<figure id="{key}"{style}><a href="#{key}" aria-label="Enlarge {text}">'
        f'<img src="{data}" width="{width}" height="{height}" alt="{text}"></a>'
        f'<figcaption>{escape(panel.title)} <a class="less" href="#{back}">smaller</a>'
        "</figcaption></figure>"
    )


def _embedded(image: NDArray[np.uint8]) -> tuple[str, int, int]:
    """An image as a data URL, with its width and height."""
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((_MAX_IMAGE_WIDTH, thumbnail.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    thumbnail.save(buffer, format="WEBP", quality=82, method=4)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{text}", thumbnail.width, thumbnail.height


def _details(report: Report) -> str:
    if not report.details:
        return ""
    entries = "".join(
        f"<dt>{escape(name)}</dt><dd><pre>{escape(text)}</pre></dd>"
        for name, text in report.details.items()
    )
    titles = escape(", ".join(report.details))
    return f"<details><summary>{titles}</summary><dl>{entries}</dl></details>"
