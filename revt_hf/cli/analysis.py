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

if TYPE_CHECKING:
    from revt_hf.analysis.diagnoses import DiagnoseOptions
    from revt_hf.analysis.similarity import Part, Similarity
    from revt_hf.evaluation.splits import SplitSpec

diagnose_app = typer.Typer(help="See when and why averaging works.", no_args_is_help=True)
Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder for plot and JSON.")]


@dataclass(frozen=True)
class Diagnosed(DataSelection):
    """The images of a diagnosis: source-val of a recipe, or any split of a domain."""

    recipe: Annotated[
        Path | None, typer.Option(help="Use the source-val splits of this recipe.")
    ] = None

    def splits(self) -> "tuple[SplitSpec, ...]":
        """The splits to measure on."""
        from revt_hf.evaluation.command import requested_splits

        found = requested_splits(
            *(self.recipe, self.domain, self.data_dir, self.config, self.split),
            self.options or [],
        )
        return tuple(split for split in found if split.is_source or self.recipe is None)


@dataclass(frozen=True)
class Run:
    """How a diagnosis runs."""

    images: Images = None
    overwrite: Overwrite = False
    json_file: Json = None
    quiet: Quiet = False


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
    _check_json(json_file, [*members.values(), base], output)
    result = diagnose_similarity(members, output, base, not no_plot, overwrite, quiet)
    _write(result.to_json(), json_file)
    print(_similarity_text(result))
    _say_written(output, quiet)


@diagnose_app.command("path")
@with_options
def path_command(
    models: Models,
    output: Output,
    data: Diagnosed,
    protocol: ProtocolChoice,
    run: Run,
    init: Annotated[
        str | None, typer.Option(help="Initial weights: also score the lines from them.")
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="Points on each line, ends included.")] = 11,
    interpolate: Annotated[
        str, typer.Option(help="Interpolate the encoder only, or all: the decode head as well.")
    ] = "encoder",
    workers: Workers = 0,
) -> None:
    """Score the straight line between two members: is there a barrier?"""
    from revt_hf.analysis.diagnoses import diagnose_path

    if interpolate not in ("encoder", "all"):
        raise UserError(f"--interpolate {interpolate}: use encoder or all")
    members = named_models(models)
    options = _options(members, output, data, protocol, run, workers, [init])
    result = diagnose_path(members, options, init, points, interpolate == "all")
    _write(result, run.json_file)
    names = dict(enumerate(members, 1))
    for line in result["lines"]:
        barrier = line["barrier"]
        say(
            f"{names.get(line['from'], 'init')} to {names[line['to']]}, "
            f"head {names.get(line['head'], 'interpolated')}: barrier {barrier['loss']:.4f} at "
            f"{barrier['loss_at']:g}, mIoU {barrier['mIoU']:.2f} points at {barrier['mIoU_at']:g}"
        )
    _say_written(output, run.quiet)


@diagnose_app.command("plane")
@with_options
def plane_command(
    models: Models,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for results and finished points.")
    ],
    data: Diagnosed,
    protocol: ProtocolChoice,
    steps: Annotated[
        str, typer.Option(help="Steps of the grids on the triangle, coarse to fine.")
    ] = "3,6",
    images: Images = None,
    workers: Workers = 0,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Score all weighted means of three members on a grid; the same command resumes."""
    from revt_hf.analysis.diagnoses import diagnose_plane

    try:
        levels = [int(part) for part in steps.split(",")]
    except ValueError as error:
        raise UserError(f"--steps {steps}: write whole numbers such as 4,8") from error
    members = named_models(models)
    run = Run(images, True, json_file, quiet)
    options = _options(members, output, data, protocol, run, workers)
    result = diagnose_plane(members, levels, options)
    _write(result, json_file)
    for head, member in enumerate(members, 1):
        scored = [
            (point["heads"][str(head)]["mIoU"], point["weights"]) for point in result["points"]
        ]
        miou, weights = max(scored, key=lambda pair: pair[0])
        say(f"head of {member}: best mIoU {miou:.2f} at weights {', '.join(weights)}")
    _say_written(output, quiet)


@diagnose_app.command("norm")
@with_options
def norm_command(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MERGE [MEMBER]...", help="A merge, then members to compare it to."),
    ],
    output: Output,
    data: Diagnosed,
    protocol: ProtocolChoice,
    run: Run,
    train: Annotated[
        str,
        typer.Option(help="With --domain: split to recalibrate on. A recipe names its own."),
    ] = "train",
    recalibrate_on: Annotated[
        int, typer.Option(min=1, help="Approximate number of images to recalibrate on.")
    ] = 100,
) -> None:
    """Measure how far the head's BatchNorm statistics are off, also after recalibration."""
    from revt_hf.analysis.diagnoses import diagnose_norm
    from revt_hf.config.domain_spec import Source
    from revt_hf.config.recipe import load_recipe

    named = named_models(models)
    merge = next(iter(named))
    options = _options({merge: named[merge]}, output, data, protocol, run, 0, named.values())
    if data.recipe is not None:
        sources = list(load_recipe(data.recipe).sources)
    else:
        sources = [
            Source(**split.spec.model_dump(), train=train, val=split.split)
            for split in options.splits
        ]
    result = diagnose_norm(named, sources, recalibrate_on, options)
    _write(result, run.json_file)
    for name, row in zip([merge, *named], result["models"], strict=True):
        say(
            f"{name} ({row['kind']}): mean off by {row['mean_shift_rms']:.3f} running standard "
            f"deviations (rms), log variance ratio {row['log_variance_ratio_rms']:.3f}"
        )
    _say_written(output, run.quiet)


@diagnose_app.command("disagreement")
@with_options
def disagreement_command(
    models: Models,
    merge: Annotated[str, typer.Option(help="The merge of these members.")],
    output: Output,
    data: Diagnosed,
    protocol: ProtocolChoice,
    run: Run,
    show: Annotated[
        int, typer.Option(min=1, help="Draw this many of the most disputed images.")
    ] = 4,
) -> None:
    """Show where members differ on images, and what their merge predicts there."""
    from revt_hf.analysis.diagnoses import diagnose_disagreement

    named = named_models([*models, merge])
    options = _options(named, output, data, protocol, run)
    result = diagnose_disagreement(named, show, options)
    _write(result, run.json_file)
    say(f"members differ on {result['disputed']:.2f} % of the pixels; there the merge follows")
    followed = result["merge_on_disputed"]
    print(", ".join(f"{who} {_percent(share)}" for who, share in followed.items()))
    for kind, row in result["accuracy"].items():
        accuracies = [f"{name} {_percent(row[name])}" for name in named]
        say(f"right on {kind} pixels: {', '.join(accuracies)}")
    _say_written(output, run.quiet)


@with_options
def choose(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="soup adds members, the best first, while the mIoU does not drop; weights "
            "searches on a grid, then by Nelder-Mead; leave-one-out also measures what each "
            "member adds.",
        ),
    ],
    models: Models,
    recipe: Annotated[
        Path, typer.Option(help="Score on source-val of this recipe, never on its targets.")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Merge recipe to write (YAML).")],
    protocol: ProtocolChoice,
    run: Run,
    on: Annotated[
        list[str] | None,
        typer.Option(help="Score on this one of several sources, such as gta5/val."),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(min=1, help="Number of the member whose head merges get. Default: the best."),
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=2, help="With weights: score at most this many merges (40).")
    ] = None,
    workers: Workers = 0,
) -> None:
    """Choose members and weights of a merge on source-val, and write its recipe."""
    from revt_hf.analysis.merge_choice import METHODS, ChooseOptions, choose_merge

    if method not in METHODS:
        raise UserError(f"unknown method '{method}': use one of {', '.join(METHODS)}")
    if evaluations is not None and method != "weights":
        raise UserError(f"--evaluations is an option of weights, not of {method}")
    members = named_models(models)
    _check_json(run.json_file, [*members.values(), recipe], output)
    options = ChooseOptions(
        protocol=protocol.resolve(list(members.values())),
        on=tuple(on or ()),
        head=head,
        evaluations=evaluations or 40,
        images=run.images,
        workers=workers,
        overwrite=run.overwrite,
        quiet=run.quiet,
    )
    result = choose_merge(method, members, recipe, output, options)
    _write(result, run.json_file)
    print("\n".join(result["report"]))
    if not run.quiet:
        say(f"written: {output}; revt merge --recipe {output} --output FOLDER")


def _options(
    models: "dict[str, str]",
    output: Path,
    data: Diagnosed,
    protocol: ProtocolChoice,
    run: Run,
    workers: int = 0,
    inputs: Any = (),
) -> "DiagnoseOptions":
    from revt_hf.analysis.diagnoses import DiagnoseOptions

    splits = data.splits()
    _check_json(run.json_file, [*models.values(), *inputs, data.recipe, data.data_dir], output)
    resolved = protocol.resolve(list(models.values()))
    return DiagnoseOptions(output, splits, resolved, run.images, workers, run.overwrite, run.quiet)


def _check_json(json_file: Path | None, inputs: Sequence[Any], output: Path) -> None:
    from revt_hf.core.outputs import check_output_file

    check_output_file(json_file, inputs=inputs, outputs=[output])


def _write(result: dict[str, Any], json_file: Path | None) -> None:
    """Write results before they are printed, which fails if nobody reads them."""
    from revt_hf.core.outputs import write_json

    if json_file is not None:
        write_json(json_file, result)


def _say_written(output: Path, quiet: bool) -> None:
    if not quiet:
        say(f"written: {output}")


def _similarity_text(result: "Similarity") -> str:
    from revt_hf.results.figures import aligned

    def cells(part: "Part") -> list[str]:
        count = len(part.pairs)
        cosines = [pair.cosine for pair in part.pairs if pair.cosine is not None]
        cosine = f"{sum(cosines) / len(cosines):.6f}" if cosines else "-"
        l2, msd = (
            sum(getattr(pair, name) for pair in part.pairs) / count for name in ("l2", "msd")
        )
        return [part.name, f"{part.parameters:,}", cosine, f"{l2:.4g}", f"{msd:.4g}"]

    head = ["mean over pairs", "parameters", "cosine", "L2", "mean squared displacement"]
    return aligned([head, *map(cells, (*result.layer_types, *result.wholes))])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1f} %"


def register(app: typer.Typer) -> None:
    """Add ``revt diagnose`` and ``revt choose``."""
    app.add_typer(diagnose_app, name="diagnose")
    app.command()(choose)
