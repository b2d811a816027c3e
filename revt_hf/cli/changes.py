"""``revt recalibrate`` and ``refit``: what changes a merge."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revt_hf.cli import options as common
from revt_hf.cli.options import Bounds
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import check_apart

if TYPE_CHECKING:
    from revt_hf.merging.changed_model import ValScore


@dataclass(frozen=True)
class SourceData(common.DataOptions):
    """Training images: of the sources of a recipe, or of one domain."""

    recipe: Annotated[Path | None, "Use the training images of this recipe's sources."] = None
    split: Annotated[str, "Training split of the domain."] = "train"
    val: Annotated[str, "Held-out split of the domain."] = "val"


def recalibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a model, such as a merge.")],
    output: Annotated[Path, "Folder of the recalibrated model."],
    data: SourceData,
    protocol: common.ProtocolOptions,
    report: common.OverwriteOptions,
    skip_val: Annotated[bool, "Do not score on source-val."] = False,
    images: Annotated[int, Bounds(1), "Approximate number of images."] = 100,
) -> None:
    """Re-estimate BatchNorm's statistics on source images."""
    from revt_hf.merging.recalibration import RecalibrateOptions
    from revt_hf.merging.recalibration import recalibrate as recalibrate_model

    sources = data.sources(data.split, data.val)
    read = [model, data.recipe, *(path for source in sources for path in source.inputs)]
    report.check(read, [output])
    options = RecalibrateOptions(images, not skip_val, report.overwrite, report.quiet)
    scores = recalibrate_model(model, output, sources, protocol.resolve([model]), options)
    _report_changed(report, output, scores, "recalibrated")


def refit(
    model: Annotated[Path, typer.Argument(help="Folder of a model, such as a merge.")],
    output: Annotated[Path, "Folder of the refit model."],
    recipe: Annotated[Path, "Train by this recipe: on its sources, with its settings."],
    report: common.OverwriteOptions,
    overrides: common.Overrides = None,
    steps: Annotated[int, Bounds(1, 10**7), "Number of optimizer steps."] = 200,
    fresh: Annotated[bool, "Start from a head of random weights, not from the model's."] = False,
    skip_val: Annotated[bool, "Do not score on source-val."] = False,
    resume: Annotated[bool, "Resume from the latest checkpoint."] = False,
) -> None:
    """Train only the decode head, on the frozen encoder."""
    from revt_hf.config.recipe import load_recipe

    if any(one.partition("=")[0].strip() == "train.steps" for one in overrides or []):
        raise UserError("--set train.steps: a refit takes its steps from --steps")
    loaded = load_recipe(recipe, overrides or [])
    read = [model, recipe, *loaded.inputs]
    report.check(read, [output])
    check_apart(output, read)
    from revt_hf.core.processes import process_state
    from revt_hf.merging.refit import RefitOptions
    from revt_hf.merging.refit import refit as refit_model

    how = RefitOptions(steps, fresh, not skip_val, resume, report.overwrite, report.quiet)
    scores = refit_model(model, output, loaded, how)
    if process_state().is_main_process:
        _report_changed(report, output, scores, "refit")


def _report_changed(
    report: common.OverwriteOptions, output: Path, scores: Sequence["ValScore"], done: str
) -> None:
    lines = [f"{s.label}: mIoU {s.before:.2f} before, {s.after:.2f} after" for s in scores]
    result = {"output": str(output), "val": [asdict(score) for score in scores]}
    report.finish(result, lines, f"{done}: {output}")
