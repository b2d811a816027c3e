"""``revt diagnose`` and ``revt choose``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revt_hf.cli import options as common
from revt_hf.cli.options import Bounds
from revt_hf.core.errors import UserError

if TYPE_CHECKING:
    from revt_hf.analysis.blending import DiagnoseOptions


Output = Annotated[Path, "DIR", "Folder for plot and JSON."]


@dataclass(frozen=True)
class Diagnosis(common.DataOptions, common.ProtocolOptions, common.OutputOptions):
    """What a diagnosis is measured on: source-val of a recipe, or any split of a domain."""

    recipe: Annotated[Path | None, "Use the source-val splits of this recipe."] = None
    images: common.Images = None

    def checked(
        self,
        output: Path,
        models: Iterable[str],
        overwrite: bool = True,
        workers: int = 0,
        also_read: Iterable[str | None] = (),
    ) -> "DiagnoseOptions":
        """The options of a diagnosis, whose JSON file does not replace an input."""
        from revt_hf.analysis.blending import DiagnoseOptions

        splits = tuple(one for one in self.splits() if one.is_source or self.recipe is None)
        self.check([*models, *also_read, self.recipe, self.data_dir], [output])
        measured = (splits, self.resolve(models), self.images, workers)
        return DiagnoseOptions(output, *measured, overwrite, self.quiet)


def similarity_command(
    models: common.Models,
    output: Output,
    report: common.OverwriteOptions,
    base: Annotated[str | None, "Initial weights: also compare displacements from them."] = None,
    no_plot: Annotated[bool, "Write only the JSON."] = False,
) -> None:
    """Compare weights by block and layer type: cosine, L2 and mean squared displacement."""
    from revt_hf.analysis.similarity import aligned, diagnose_similarity, mean_of

    members = common.named_models(models)
    report.check([*members.values(), base], [output])
    how = (not no_plot, report.overwrite, report.quiet)
    result = diagnose_similarity(members, output, base, *how)
    rows = [["mean over pairs", "parameters", "cosine", "L2", "mean squared displacement"]]
    for part in (*result["layer_types"], *result["wholes"]):
        cosine, l2, msd = (mean_of(part.get(key, ())) for key in ("cosine", "l2", "msd"))
        shown = "-" if cosine is None else f"{cosine:.6f}"
        rows.append([part["name"], f"{part['parameters']:,}", shown, f"{l2:.4g}", f"{msd:.4g}"])
    report.finish(result, aligned(rows).splitlines(), f"written: {output}")


def path_command(
    models: common.Models,
    output: Output,
    data: Diagnosis,
    init: Annotated[str | None, "Initial weights: also score the lines from them."] = None,
    points: Annotated[int, Bounds(2), "Points on each line, ends included."] = 11,
    interpolate: Annotated[
        str, "Interpolate the encoder only, or all: the decode head as well."
    ] = "encoder",
    workers: common.Workers = 0,
    overwrite: common.Overwrite = False,
) -> None:
    """Score the straight line between two members: is there a barrier?"""
    from revt_hf.analysis.landscape import diagnose_path

    if interpolate not in ("encoder", "all"):
        raise UserError(f"--interpolate {interpolate}: use encoder or all")
    members = common.named_models(models)
    options = data.checked(output, members.values(), overwrite, workers, [init])
    result = diagnose_path(members, options, init, points, interpolate == "all")
    names: dict[Any, str] = dict(enumerate(members, 1))
    lines = []
    for line in result["lines"]:
        barrier = line["barrier"]
        lines.append(
            f"{names.get(line['from'], 'init')} to {names[line['to']]}, "
            f"head {names.get(line['head'], 'interpolated')}: "
            f"barrier {barrier['loss']:.4f} at {barrier['loss_at']:g}, "
            f"mIoU {barrier['mIoU']:.2f} points at {barrier['mIoU_at']:g}"
        )
    data.finish(result, lines, f"written: {output}")


def plane_command(
    models: common.Models,
    output: Output,
    data: Diagnosis,
    steps: Annotated[str, "Steps of the grids, coarse to fine."] = "3,6",
    workers: common.Workers = 0,
) -> None:
    """Score all weighted means of three members on a grid; the same command resumes."""
    from revt_hf.analysis.landscape import diagnose_plane

    try:
        levels = [int(part) for part in steps.split(",")]
    except ValueError as error:
        raise UserError(f"--steps {steps}: write whole numbers such as 4,8") from error
    members = common.named_models(models)
    options = data.checked(output, members.values(), workers=workers)
    result = diagnose_plane(members, levels, options)
    lines = []
    for head, member in enumerate(members, 1):
        best = max(result["points"], key=lambda point: point["heads"][str(head)]["mIoU"])
        miou, weights = best["heads"][str(head)]["mIoU"], ", ".join(best["weights"])
        lines.append(f"head of {member}: best mIoU {miou:.2f} at weights {weights}")
    data.finish(result, lines, f"written: {output}")


def norm_command(
    models: Annotated[list[str], typer.Argument(help="A merge, then members to compare it to.")],
    output: Output,
    data: Diagnosis,
    train: Annotated[
        str, "With --domain: split to recalibrate on. A recipe names its own."
    ] = "train",
    recalibrate_on: Annotated[int, Bounds(1), "Approximate number of images."] = 100,
    overwrite: common.Overwrite = False,
) -> None:
    """Measure how far the head's BatchNorm statistics are off, also after recalibration."""
    from revt_hf.analysis.merge_comparison import diagnose_norm

    named = common.named_models(models)
    merge, *members = named.values()
    options = data.checked(output, [merge], overwrite, also_read=members)
    if data.recipe is not None and train != "train":
        raise UserError(f"--train goes with --domain: {data.recipe} names its own split")
    sources = data.sources(train, data.split)
    result = diagnose_norm(named, sources, recalibrate_on, options)
    lines = [
        f"{name} ({row['kind']}): mean off by {row['mean_shift_rms']:.3f} running standard "
        f"deviations (rms), log variance ratio {row['log_variance_ratio_rms']:.3f}"
        for name, row in zip([next(iter(named)), *named], result["models"], strict=True)
    ]
    data.finish(result, lines, f"written: {output}")


def disagreement_command(
    models: common.Models,
    merge: Annotated[str, "The merge of these members."],
    output: Output,
    data: Diagnosis,
    show: Annotated[int, Bounds(1), "Draw this many disputed images."] = 4,
    overwrite: common.Overwrite = False,
) -> None:
    """Show where members differ on images, and what their merge predicts there."""
    from revt_hf.analysis.merge_comparison import diagnose_disagreement

    members = common.named_models(models)
    options = data.checked(output, [*members.values(), merge], overwrite)
    result = diagnose_disagreement(members, merge, show, options)
    lines = [
        f"members differ on {result['disputed']:.2f} % of the pixels; there the merge follows",
        ", ".join(f"{w} {_percent(share)}" for w, share in result["merge_on_disputed"].items()),
    ]
    for kind, row in result["accuracy"].items():
        accuracies = [f"{name} {_percent(row[name])}" for name in (*members, merge)]
        lines.append(f"right on {kind} pixels: {', '.join(accuracies)}")
    data.finish(result, lines, f"written: {output}")


def choose(
    method: Annotated[str, typer.Argument(help="soup, weights or leave-one-out.")],
    models: common.Models,
    recipe: Annotated[Path, "Score on source-val of this recipe, never on its targets."],
    output: Annotated[Path, "FILE", "Merge recipe to write (YAML)."],
    protocol: common.ProtocolOptions,
    report: common.OverwriteOptions,
    on: Annotated[list[str] | None, "Score on this source alone."] = None,
    head: Annotated[int | None, Bounds(1), "Use this member's head."] = None,
    evaluations: Annotated[
        int | None, Bounds(2), "With weights: score at most this many merges (40)."
    ] = None,
    images: common.Images = None,
    workers: common.Workers = 0,
) -> None:
    """Choose members and weights of a merge on source-val, and write its recipe.

    A soup adds members, the best first, while the mIoU does not drop. Weights are searched on a
    grid, then by Nelder-Mead. Leave-one-out also measures what each member adds. Without --head,
    a merge gets the best head of its members.
    """
    from revt_hf.analysis.merge_choice import METHODS, ChooseOptions, choose_merge

    if method not in METHODS:
        raise UserError(f"unknown method '{method}': use one of {', '.join(METHODS)}")
    if evaluations is not None and method != "weights":
        raise UserError(f"--evaluations is an option of weights, not of {method}")
    members = common.named_models(models)
    report.check([*members.values(), recipe], [output])
    resolved = protocol.resolve(members.values())
    scored = (resolved, tuple(on or ()), head, evaluations or 40, images, workers)
    options = ChooseOptions(*scored, report.overwrite, report.quiet)
    result = choose_merge(method, members, recipe, output, options)
    remark = f"written: {output}; revt merge --recipe {output} --output FOLDER"
    report.finish(result, result["report"], remark)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1f} %"
