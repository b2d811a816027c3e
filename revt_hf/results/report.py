"""The content of a report page: models, their scores, images of unseen domains, training curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from revt_hf.checkpoints.tensors import MERGE_FILE
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.domains import in_space
from revt_hf.data.label_space import CITYSCAPES, Colour
from revt_hf.evaluation.cost import library_versions
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate, load_segmenters
from revt_hf.evaluation.loading import load_labelled
from revt_hf.evaluation.result import DomainScore, Result, SplitSpec
from revt_hf.models.load import label_space
from revt_hf.models.recorded import read_metrics, recorded_recipe
from revt_hf.results.layout import mean_or_none
from revt_hf.results.sheets import Panel, contact_sheet, overlay

ModelKind = Literal["init", "member", "merge", "ensemble"]

_CURVES = {"loss": "training loss", "val_mIoU": "source-val mIoU (%)"}


@dataclass(frozen=True)
class ReportModel:
    """A row of a report: name in the results, folder or Hub ID (not of ensembles), and a note."""

    name: str
    kind: ModelKind
    folder: str | Path = ""
    note: str = ""


@dataclass(frozen=True)
class Example:
    """One image of a domain as a series of panels: input, ground truth, models' overlays."""

    domain: str
    name: str
    panels: list[Panel]


@dataclass(frozen=True)
class TrainingCurve:
    """A model's (step, value) points; curves of one name, such as ``loss``, share a chart."""

    model: str
    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class Report:
    """The content of a report page; ``sources`` and ``targets`` are labels of domains."""

    title: str
    intro: str
    models: list[ReportModel]
    sources: list[str]
    targets: list[str]
    results: list[Result]
    examples: list[Example] = field(default_factory=list)
    curves: list[TrainingCurve] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    colours: Mapping[str, Colour] = field(default_factory=lambda: CITYSCAPES.by_name)

    def __post_init__(self) -> None:
        if not self.targets or not self.sources:
            raise UserError("a report needs at least one source and one unseen domain")
        for what, names in (("model", self.names()), ("domain", self.domains)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise UserError(f"report: {what} '{twice[0]}' is listed twice")
        for model, domain in self._scores:
            if model not in self.names():
                raise UserError(f"report: a score is of '{model}', which is not a model")
            if domain not in self.domains:
                raise UserError(f"report: a score is on '{domain}', which is not a domain")

    @property
    def domains(self) -> list[str]:
        return [*self.sources, *self.targets]

    @cached_property
    def _scores(self) -> dict[tuple[str, str], DomainScore]:
        scores: dict[tuple[str, str], DomainScore] = {}
        for result in self.results:
            for score in result.scores:
                if (result.model, score.label) in scores:
                    raise UserError(f"two scores of {result.model} on {score.label}: keep one")
                scores[result.model, score.label] = score
        return scores

    def names(self, kind: ModelKind | None = None) -> list[str]:
        return [model.name for model in self.models if kind in (None, model.kind)]

    def score(self, model: str, domain: str) -> DomainScore | None:
        return self._scores.get((model, domain))

    def miou(self, model: str, domain: str) -> float | None:
        score = self.score(model, domain)
        return None if score is None else score.miou

    def source(self, model: str) -> float | None:
        """The mean mIoU over the source domains, 0..100; None if the model lacks one of them."""
        return mean_or_none([self.miou(model, domain) for domain in self.sources])

    def unseen(self, model: str) -> float | None:
        """The mean mIoU over all unseen domains, 0..100; None if the model lacks one of them."""
        return mean_or_none([self.miou(model, domain) for domain in self.targets])

    def on(self, domain: str) -> list[DomainScore]:
        return [score for (_, where), score in self._scores.items() if where == domain]

    def classes(self, domain: str) -> set[str]:
        scores = self.on(domain)
        return {name for one in scores for name, value in one.iou.items() if value is not None}

    def class_means(self, models: Sequence[str]) -> dict[str, dict[str, float]]:
        """Class -> model -> mean IoU (0..100) over the unseen domains where all models have one."""
        means = {}
        for name in {name for score in self._scores.values() for name in score.iou}:
            columns = []
            for domain in self.targets:
                scores = [self.score(model, domain) for model in models]
                column = [None if score is None else score.iou.get(name) for score in scores]
                if None not in column:
                    columns.append(column)
            if columns:
                means[name] = {
                    model: math.fsum(column[row] or 0.0 for column in columns) / len(columns)
                    for row, model in enumerate(models)
                }
        return means


def report_models(named: Mapping[str, str], init: Path | None = None) -> list[ReportModel]:
    """Models by their names as rows of a report; a folder with ``merge.json`` is a merge."""
    initial = [] if init is None else [ReportModel(init.resolve().name, "init", init)]
    members, merges = [], []
    for label, path in named.items():
        name = Path(path).resolve().name if label == path else label
        if (Path(path) / MERGE_FILE).is_file():
            merges.append(ReportModel(name, "merge", path))
        else:
            recipe = recorded_recipe(path)
            note = "" if recipe is None else f"method {recipe.augmentation.method}"
            members.append(ReportModel(name, "member", path, note))
    if not members or not merges:
        lacking = "merge (a folder with merge.json)" if members else "member"
        raise UserError(f"a report compares members with their merges: name at least one {lacking}")
    return [*initial, *members, *merges]


def compare(
    title: str,
    intro: str,
    models: Sequence[ReportModel],
    splits: Sequence[SplitSpec],
    protocol: Protocol,
    details: Mapping[str, str],
    results: Sequence[Result] | None = None,
    quiet: bool = False,
    calibration: bool = False,
) -> Report:
    """A report with one image of every unseen split; without ``results`` the models are scored."""
    # One head is enough to look at.
    merges = [model for model in models if model.kind == "merge"][:1]
    drawn = [model for model in models if model.kind == "member" or model in merges]
    needed = models if results is None else drawn
    networks = load_segmenters({model.name: model.folder for model in needed})
    space = label_space(next(iter(networks.values())).models[0])
    loaded = [
        (split, in_space(load_labelled(split.spec, split.split), space, split.label))
        for split in splits
    ]
    if results is None:
        options = EvaluateOptions(quiet=quiet, calibration=calibration)
        results = evaluate(networks, loaded, protocol, options)
    examples = []
    for split, images in loaded:
        if not split.is_source:
            row = images[len(images) // 2]
            image = row["image"]
            panels = [Panel("input", image), Panel("ground truth", space.colourise(row["label"]))]
            for model in drawn:
                classes = networks[model.name].class_map(image, protocol)
                panels.append(Panel(model.name, overlay(image, classes, space=space)))
            examples.append(Example(split.label, row["name"], panels))
    curves = []
    for model in models:
        rows = read_metrics(Path(model.folder)) if model.kind == "member" else []
        for key, name in _CURVES.items():
            points = [(int(row["step"]), float(row[key])) for row in rows if key in row]
            if points:
                curves.append(TrainingCurve(model.name, name, points))
    measured = (
        f"Images: {protocol.text}; logits resized bilinearly to the network's input, then to the "
        "image; arg max. IoU over all pixels of a domain at the label's own size; classes that "
        "are neither labelled nor predicted are left out of the mean."
    )
    versions = [f"{name} {version}" for name, version in library_versions().items()]
    return Report(
        title=title,
        intro=intro,
        models=list(models),
        sources=[split.label for split in splits if split.is_source],
        targets=[split.label for split in splits if not split.is_source],
        results=list(results),
        examples=examples,
        curves=curves,
        colours=space.by_name,
        details={**details, "Protocol": measured, "Versions": "\n".join(versions)},
    )


def write_sheet(report: Report, path: Path) -> None:
    contact_sheet(
        [example.panels for example in report.examples],
        [panel.title for panel in report.examples[0].panels],
        [example.domain for example in report.examples],
        {name: report.colours[name] for name in sorted(report.classes(report.targets[0]))},
        path,
        panel_width=300,
    )
