"""``revt diagnose`` and ``revt choose``: parse, validate, call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revt_hf.cli.options import (
    DataSelection,
    Images,
    Json,
    Models,
    Overwrite,
    ProtocolChoice,
    Quiet,
    Workers,
    named_models,
    with_options,
)
from revt_hf.core.errors import UserError, say
from revt_hf.core.outputs import check_output_file, write_json

if TYPE_CHECKING:
    from revt_hf.analysis.diagnoses import DiagnoseOptions
    from revt_hf.analysis.similarity import Similarity

diagnose_app = typer.Typer(help="See when and why averaging works.", no_args_is_help=True)

Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder for plot and JSON.")]


@dataclass(frozen=True)
class Diagnosis(DataSelection, ProtocolChoice):
    """What a diagnosis is measured on: source-val of a recipe, or any split of a domain."""

    recipe: Annotated[
        Path | None, typer.Option(help="Use the source-val splits of this recipe.")
    ] = None
    images: Images = None
    json_file: Json = None
    quiet: Quiet = False

    def checked(
        self,
        output: Path,
        models: Sequence[str],
        overwrite: bool = True,
        workers: int = 0,
        also_read: Sequence[str | None] = (),
    ) -> "DiagnoseOptions":
        """The options of a diagnosis, whose JSON file does not replace an input."""
        from revt_hf.analysis.diagnoses import DiagnoseOptions

        splits = [one for one in self.splits() if one.is_source or self.recipe is None]
        inputs = [*models, *also_read, self.recipe, self.data_dir]
        check_output_file(self.json_file, inputs=inputs, outputs=[output])
        protocol = self.resolve(models)
        return DiagnoseOptions(
            output, tuple(splits), protocol, self.images, workers, overwrite, self.quiet
        )


@diagnose_app.command("similarity")
@with_options
def similarity_command(
    models: Models,
    output: Output,
    base: Annotated[
        str | None, typer.Option(help="Initial weights: also compare displacements from them.")
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Write only the JSON.")] = False,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Compare weights by block and layer type: cosine, L2 and mean squared displacement."""
    from revt_hf.analysis.similarity import diagnose_similarity

    members = named_models(models)
    check_output_file(json_file, inputs=[*members.values(), base], outputs=[output])
    result = diagnose_similarity(members, output, base, not no_plot, overwrite, quiet)
    _write(result.to_json(), json_file)
    print(_similarity_text(result))
    _say_written(output, quiet)


@diagnose_app.command("path")
@with_options
def path_command(
    models: Models,
    output: Output,
    data: Diagnosis,
    init: Annotated[
        str | None, typer.Option(help="Initial weights: also score the lines from them.")
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="Points on each line, ends included.")] = 11,
    interpolate: Annotated[
        str, typer.Option(help="Interpolate the encoder only, or all: the decode head as well.")
    ] = "encoder",
    workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Score the straight line between two members: is there a barrier?"""
    from revt_hf.analysis.diagnoses import diagnose_path

    if interpolate not in ("encoder", "all"):
        raise UserError(f"--interpolate {interpolate}: use encoder or all")
    members = named_models(models)
    options = data.checked(output, list(members.values()), overwrite, workers, [init])
    result = diagnose_path(members, options, init, points, interpolate == "all")
    _write(result, data.json_file)
    names = dict(enumerate(members, 1))
    for line in result["lines"]:
        barrier = line["barrier"]
        say(
            f"{names.get(line['from'], 'init')} to {names[line['to']]}, "
            f"head {names.get(line['head'], 'interpolated')}: barrier {barrier['loss']:.4f} at "
            f"{barrier['loss_at']:g}, mIoU {barrier['mIoU']:.2f} points at {barrier['mIoU_at']:g}"
        )
    _say_written(output, data.quiet)


@diagnose_app.command("plane")
@with_options
def plane_command(
    models: Models,
    output: Output,
    data: Diagnosis,
    steps: Annotated[str, typer.Option(help="Steps of the grids, coarse to fine.")] = "3,6",
    workers: Workers = 0,
) -> None:
    """Score all weighted means of three members on a grid; the same command resumes."""
    from revt_hf.analysis.diagnoses import diagnose_plane

    try:
        levels = [int(part) for part in steps.split(",")]
    except ValueError as error:
        raise UserError(f"--steps {steps}: write whole numbers such as 4,8") from error
    members = named_models(models)
    options = data.checked(output, list(members.values()), workers=workers)
    result = diagnose_plane(members, levels, options)
    _write(result, data.json_file)
    for head, member in enumerate(members, 1):
        best = max(result["points"], key=lambda point: point["heads"][str(head)]["mIoU"])
        miou, weights = best["heads"][str(head)]["mIoU"], ", ".join(best["weights"])
        say(f"head of {member}: best mIoU {miou:.2f} at weights {weights}")
    _say_written(output, data.quiet)


@diagnose_app.command("norm")
@with_options
def norm_command(
    models: Annotated[list[str], typer.Argument(help="A merge, then members to compare it to.")],
    output: Output,
    data: Diagnosis,
    train: Annotated[
        str, typer.Option(help="With --domain: split to recalibrate on. A recipe names its own.")
    ] = "train",
    recalibrate_on: Annotated[int, typer.Option(min=1, help="Approximate number of images.")] = 100,
    overwrite: Overwrite = False,
) -> None:
    """Measure how far the head's BatchNorm statistics are off, also after recalibration."""
    from revt_hf.analysis.diagnoses import diagnose_norm
    from revt_hf.config.domain_spec import Source
    from revt_hf.config.recipe import load_recipe

    named = named_models(models)
    merge, *members = named.values()
    options = data.checked(output, [merge], overwrite, also_read=members)
    if data.recipe is not None:
        sources = list(load_recipe(data.recipe).sources)
    else:
        sources = [Source(**data.spec().model_dump(), train=train, val=data.split)]
    result = diagnose_norm(named, sources, recalibrate_on, options)
    _write(result, data.json_file)
    for name, row in zip([next(iter(named)), *named], result["models"], strict=True):
        say(
            f"{name} ({row['kind']}): mean off by {row['mean_shift_rms']:.3f} running standard "
            f"deviations (rms), log variance ratio {row['log_variance_ratio_rms']:.3f}"
        )
    _say_written(output, data.quiet)


@diagnose_app.command("disagreement")
@with_options
def disagreement_command(
    models: Models,
    merge: Annotated[str, typer.Option(help="The merge of these members.")],
    output: Output,
    data: Diagnosis,
    show: Annotated[int, typer.Option(min=1, help="Draw this many disputed images.")] = 4,
    overwrite: Overwrite = False,
) -> None:
    """Show where members differ on images, and what their merge predicts there."""
    from revt_hf.analysis.diagnoses import diagnose_disagreement

    members = named_models(models)
    options = data.checked(output, [*members.values(), merge], overwrite)
    result = diagnose_disagreement(members, merge, show, options)
    _write(result, data.json_file)
    say(f"members differ on {result['disputed']:.2f} % of the pixels; there the merge follows")
    say(", ".join(f"{w} {_percent(share)}" for w, share in result["merge_on_disputed"].items()))
    for kind, row in result["accuracy"].items():
        accuracies = [f"{name} {_percent(row[name])}" for name in (*members, merge)]
        say(f"right on {kind} pixels: {', '.join(accuracies)}")
    _say_written(output, data.quiet)


@with_options
def choose(
    method: Annotated[str, typer.Argument(help="soup, weights or leave-one-out.")],
    models: Models,
    recipe: Annotated[
        Path, typer.Option(help="Score on source-val of this recipe, never on its targets.")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Merge recipe to write (YAML).")],
    protocol: ProtocolChoice,
    on: Annotated[list[str] | None, typer.Option(help="Score on this source alone.")] = None,
    head: Annotated[int | None, typer.Option(min=1, help="Use this member's head.")] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=2, help="With weights: score at most this many merges (40).")
    ] = None,
    images: Images = None,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
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
    members = named_models(models)
    check_output_file(json_file, inputs=[*members.values(), recipe], outputs=[output])
    options = ChooseOptions(
        protocol=protocol.resolve(list(members.values())),
        on=tuple(on or ()),
        head=head,
        evaluations=evaluations or 40,
        images=images,
        workers=workers,
        overwrite=overwrite,
        quiet=quiet,
    )
    result = choose_merge(method, members, recipe, output, options)
    _write(result, json_file)
    print("\n".join(result["report"]))
    if not quiet:
        say(f"written: {output}; revt merge --recipe {output} --output FOLDER")


def _write(result: dict[str, Any], json_file: Path | None) -> None:
    """Write results before they are printed, which fails if nobody reads them."""
    if json_file is not None:
        write_json(json_file, result)


def _say_written(output: Path, quiet: bool) -> None:
    if not quiet:
        say(f"written: {output}")


def _similarity_text(result: "Similarity") -> str:
    from revt_hf.results.figures import aligned

    rows = [["mean over pairs", "parameters", "cosine", "L2", "mean squared displacement"]]
    for part in (*result.layer_types, *result.wholes):
        cosines = [pair.cosine for pair in part.pairs if pair.cosine is not None]
        cosine = f"{sum(cosines) / len(cosines):.6f}" if cosines else "-"
        l2 = sum(pair.l2 for pair in part.pairs) / len(part.pairs)
        msd = sum(pair.msd for pair in part.pairs) / len(part.pairs)
        rows.append([part.name, f"{part.parameters:,}", cosine, f"{l2:.4g}", f"{msd:.4g}"])
    return aligned(rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1f} %"


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to a panel of ``revt --help``."""
    app.add_typer(diagnose_app, name="diagnose", rich_help_panel=panel)
    app.command(rich_help_panel=panel)(choose)
