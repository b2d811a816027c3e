"""From model folders and splits to a report page: scores, images, curves."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.data.labels import colourise
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate, load_for_evaluation
from revt_hf.evaluation.predictor import predict
from revt_hf.evaluation.result import LIBRARIES, Result
from revt_hf.evaluation.splits import SplitSpec
from revt_hf.results.page import Curve, Model, Panel, Report, Scene
from revt_hf.results.results import scores_of
from revt_hf.results.sheets import contact_sheet, overlay
from revt_hf.results.summary import Score
from revt_hf.training.tracking import read_metrics

_CURVES = {"loss": "training loss", "val_mIoU": "source-val mIoU (%)"}


@dataclass(frozen=True)
class Entry:
    """A model of the report: how it is called, what it is, and its folder."""

    model: Model
    folder: Path


@dataclass(frozen=True)
class Comparison:
    """Everything that a report is made from."""

    report: Report
    results: list[Result]


def compare(
    title: str,
    intro: str,
    entries: Sequence[Entry],
    splits: Sequence[tuple[SplitSpec, Any]],
    protocol: Protocol,
    details: dict[str, str],
    on_image: Callable[[], object] = lambda: None,
) -> Comparison:
    """Score all models on all splits and draw one scene of every unseen one.

    Args:
        title: of the page.
        intro: one paragraph.
        entries: the models; the first ReVT is the headline's.
        splits: what to score on with its images; sources and unseen ones.
        protocol: see :class:`Protocol`.
        details: headings and texts on how the models were made.
        on_image: called after each image, for a progress bar.
    """
    networks = {entry.model.name: load_for_evaluation(entry.folder) for entry in entries}
    results = evaluate(networks, splits, protocol, EvaluateOptions(quiet=True), on_image)
    report = assemble(
        title, intro, entries, networks, splits, protocol, scores_of(results), details
    )
    return Comparison(report, results)


def assemble(
    title: str,
    intro: str,
    entries: Sequence[Entry],
    networks: Mapping[str, SegformerForSemanticSegmentation],
    splits: Sequence[tuple[SplitSpec, Any]],
    protocol: Protocol,
    scores: Sequence[Score],
    details: dict[str, str],
) -> Report:
    """A report of models that have been scored; one scene of every unseen split is drawn.

    Args as those of :func:`compare`; ``networks`` are the entries' models by name, ``scores``
    carry these names and the splits' labels.
    """
    scenes = []
    for split, images in splits:
        if not split.is_source:
            row = images[len(images) // 2]
            scenes.append(_scene(split.label, row, entries, networks, protocol))
    return Report(
        title=title,
        intro=intro,
        models=[entry.model for entry in entries],
        sources=[split.label for split, _ in splits if split.is_source],
        targets=[split.label for split, _ in splits if not split.is_source],
        scores=list(scores),
        scenes=scenes,
        curves=_curves(entries),
        details={**details, "Protocol": _protocol_text(protocol), "Versions": _versions()},
    )


def write_sheet(report: Report, path: Path) -> None:
    """Write the report's scenes as one PNG for a README."""
    titles = [panel.title for panel in report.scenes[0].panels]
    classes = report.board().classes(report.targets[0])
    contact_sheet(
        [scene.panels for scene in report.scenes],
        titles,
        [scene.domain for scene in report.scenes],
        sorted(classes),
        path,
        panel_width=300,
    )


def _scene(
    domain: str,
    row: Any,
    entries: Sequence[Entry],
    networks: Mapping[str, Any],
    protocol: Protocol,
) -> Scene:
    image = row["image"]
    shown = [entry for entry in entries if entry.model.kind != "init"]
    # One head is enough to look at.
    first_revt = next((entry for entry in shown if entry.model.kind == "revt"), None)
    panels = [Panel("input", image), Panel("ground truth", colourise(row["label"]))]
    for entry in shown:
        if entry.model.kind == "member" or entry is first_revt:
            name = entry.model.name
            panels.append(Panel(name, overlay(image, predict(networks[name], image, protocol))))
    return Scene(domain, row["name"], panels)


def _curves(entries: Sequence[Entry]) -> list[Curve]:
    curves = []
    for entry in entries:
        rows = read_metrics(entry.folder)
        for key, name in _CURVES.items():
            points = [(int(row["step"]), float(row[key])) for row in rows if key in row]
            if points and entry.model.kind == "member":
                curves.append(Curve(entry.model.name, name, points))
    return curves


def _protocol_text(protocol: Protocol) -> str:
    return (
        f"Images: {protocol.text}; logits resized bilinearly to the network's input, then to the "
        "image; arg max. IoU over all pixels of a domain at the label's own size; classes that "
        "are neither labelled nor predicted are left out of the mean."
    )


def _versions() -> str:
    lines = [f"Python {platform.python_version()} on {platform.machine()}"]
    return "\n".join([*lines, *(f"{name} {version(name)}" for name in LIBRARIES)])
