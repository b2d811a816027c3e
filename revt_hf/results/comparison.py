"""From models and splits to a report: scores, images of every unseen domain, training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import SegformerForSemanticSegmentation

from revt_hf.checkpoints.tensors import MERGE_FILE
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.labels import colourise
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate, load_for_evaluation
from revt_hf.evaluation.loading import load_labelled
from revt_hf.evaluation.predictor import predict
from revt_hf.evaluation.result import Result, library_versions
from revt_hf.evaluation.splits import SplitSpec
from revt_hf.models.recorded import read_metrics, recorded_recipe
from revt_hf.results.report import Example, Report, ReportModel, TrainingCurve
from revt_hf.results.sheets import Panel, contact_sheet, overlay

_CURVES = {"loss": "training loss", "val_mIoU": "source-val mIoU (%)"}


def report_models(named: Mapping[str, str], init: Path | None = None) -> list[ReportModel]:
    """The models of a report: initial weights, members, merges."""
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
    quiet: bool = False,
) -> Report:
    """Score all models on all splits and draw one image of every unseen one."""
    networks = {model.name: load_for_evaluation(model.folder) for model in models}
    loaded = [(split, load_labelled(split.spec, split.split)) for split in splits]
    results = evaluate(networks, loaded, protocol, EvaluateOptions(quiet=quiet))
    return build_report(title, intro, models, loaded, protocol, results, details, networks)


def build_report(
    title: str,
    intro: str,
    models: Sequence[ReportModel],
    splits: Sequence[tuple[SplitSpec, Any]],
    protocol: Protocol,
    results: Sequence[Result],
    details: Mapping[str, str],
    networks: Mapping[str, SegformerForSemanticSegmentation] | None = None,
) -> Report:
    """A report of models that have been scored."""
    # One head is enough to look at.
    merges = [model for model in models if model.kind == "merge"][:1]
    drawn = [model for model in models if model.kind == "member" or model in merges]
    networks = networks or {model.name: load_for_evaluation(model.folder) for model in drawn}
    examples = []
    for split, images in splits:
        if not split.is_source:
            row = images[len(images) // 2]
            image = row["image"]
            panels = [Panel("input", image), Panel("ground truth", colourise(row["label"]))]
            for model in drawn:
                classes = predict(networks[model.name], image, protocol)
                panels.append(Panel(model.name, overlay(image, classes)))
            examples.append(Example(split.label, row["name"], panels))
    versions = [f"{name} {version}" for name, version in library_versions().items()]
    return Report(
        title=title,
        intro=intro,
        models=list(models),
        sources=[split.label for split, _ in splits if split.is_source],
        targets=[split.label for split, _ in splits if not split.is_source],
        results=list(results),
        examples=examples,
        curves=_training_curves(models),
        details={**details, "Protocol": _protocol(protocol), "Versions": "\n".join(versions)},
    )


def write_sheet(report: Report, path: Path) -> None:
    """Write the report's examples as one PNG for a README."""
    contact_sheet(
        [example.panels for example in report.examples],
        [panel.title for panel in report.examples[0].panels],
        [example.domain for example in report.examples],
        sorted(report.classes(report.targets[0])),
        path,
        panel_width=300,
    )


def _training_curves(models: Sequence[ReportModel]) -> list[TrainingCurve]:
    curves = []
    for model in models:
        rows = read_metrics(Path(model.folder)) if model.kind == "member" else []
        for key, name in _CURVES.items():
            points = [(int(row["step"]), float(row[key])) for row in rows if key in row]
            if points:
                curves.append(TrainingCurve(model.name, name, points))
    return curves


def _protocol(protocol: Protocol) -> str:
    return (
        f"Images: {protocol.text}; logits resized bilinearly to the network's input, then to the "
        "image; arg max. IoU over all pixels of a domain at the label's own size; classes that "
        "are neither labelled nor predicted are left out of the mean."
    )
