"""``revt diagnose``: parse, validate, call."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revt_hf.cli import choose as choose
from revt_hf.cli.data import Config, DataDir, Json, Options, Overwrite, Quiet
from revt_hf.cli.evaluate import Bound, Images, Members, ProtocolName, Workers
from revt_hf.core.errors import UserError, say

if TYPE_CHECKING:
    from revt_hf.analysis.command import Request
    from revt_hf.analysis.similarity import Part, Similarity

diagnose_app = typer.Typer(help="See when and why averaging works.", no_args_is_help=True)

Output = Annotated[Path, typer.Option(metavar="DIR", help="The folder of plot and JSON.")]
Recipe = Annotated[Path | None, typer.Option(help="Its source-val is looked at.")]
Domain = Annotated[str | None, typer.Option(help="Instead of a recipe: any domain, a target too.")]
Split = Annotated[str, typer.Option(help="The domain's split.")]


@diagnose_app.command("similarity")
def similarity_command(
    members: Members,
    output: Output,
    base: Annotated[
        str | None, typer.Option(help="What they started from: also compare the ways from it.")
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Write the JSON alone.")] = False,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Cosine, L2 and mean squared displacement of weights, by block and by kind of layer."""
    from tqdm import tqdm

    from revt_hf.analysis.similarity import similarity
    from revt_hf.core.outputs import atomic_folder, check_output, check_output_file, write_json

    check_output(output, overwrite, [*members, base])
    check_output_file(json_file, inputs=[*members, base], outputs=[output])
    with tqdm(unit="B", unit_scale=True, desc="similarity", disable=quiet) as bar:
        result = similarity(members, base, bar.update, bar.reset, quiet)
    with atomic_folder(output, overwrite, [*members, base]) as scratch:
        write_json(scratch / "similarity.json", result.to_json())
        if not no_plot:
            from revt_hf.analysis.similarity_chart import draw_similarity

            draw_similarity(result, scratch / "similarity.png")
    if json_file is not None:
        write_json(json_file, result.to_json())
    print(_similarity_text(result))
    _done(output, quiet)


@diagnose_app.command("path")
def path_command(
    members: Annotated[list[str], typer.Argument(help="Two SegFormer folders or Hub ids.")],
    output: Output,
    recipe: Recipe = None,
    domain: Domain = None,
    data_dir: DataDir = None,
    config: Config = None,
    options: Options = None,
    split: Split = "val",
    start: Annotated[
        str | None, typer.Option(help="What they started from: also from there to each.")
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="On each way, with its ends.")] = 11,
    interpolate: Annotated[
        str, typer.Option(help="encoder, or all: also a curve with the heads interpolated.")
    ] = "encoder",
    images: Images = None,
    protocol: ProtocolName = None,
    max_size: Bound = None,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Loss and mIoU along the line between two members: is there a barrier?"""
    from revt_hf.analysis import command

    if interpolate not in ("encoder", "all"):
        raise UserError(f"--interpolate {interpolate}: use encoder or all")
    where = (recipe, domain, data_dir, config, split, options)
    request = _request(where, output, protocol, max_size, images, workers, overwrite, quiet)
    _check_json(json_file, [*members, start, recipe, data_dir], output)
    result = command.path_command(members, start, points, interpolate == "all", request)
    _keep(result, json_file)
    names = {0: "init", **dict(enumerate(members, 1))}
    for line in result["lines"]:
        first = 0 if line["from"] == "init" else line["from"]
        head = names.get(line["head"], "interpolated, too")
        barrier = line["barrier"]
        say(
            f"{names[first]} to {names[line['to']]}, head {head}: barrier {barrier['loss']:.4f} "
            f"at {barrier['loss_at']:g}, mIoU {barrier['mIoU']:.2f} points at "
            f"{barrier['mIoU_at']:g}"
        )
    _done(output, quiet)


@diagnose_app.command("plane")
def plane_command(
    members: Annotated[list[str], typer.Argument(help="Three SegFormer folders or Hub ids.")],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of results, finished points too.")
    ],
    recipe: Recipe = None,
    domain: Domain = None,
    data_dir: DataDir = None,
    config: Config = None,
    options: Options = None,
    split: Split = "val",
    steps: Annotated[
        str, typer.Option(help="Steps of the grids on the triangle, coarse to fine.")
    ] = "3,6",
    images: Images = None,
    protocol: ProtocolName = None,
    max_size: Bound = None,
    workers: Workers = 0,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Score all weighted means of three members: ternary plots. Goes on where it was stopped."""
    from revt_hf.analysis import command

    where = (recipe, domain, data_dir, config, split, options)
    request = _request(where, output, protocol, max_size, images, workers, True, quiet)
    _check_json(json_file, [*members, recipe, data_dir], output)
    result = command.plane_command(members, _whole_numbers(steps), request)
    _keep(result, json_file)
    for head, member in enumerate(members, 1):
        scored = [
            (point["heads"][str(head)]["mIoU"], point["weights"]) for point in result["points"]
        ]
        miou, weights = max(scored, key=lambda pair: pair[0])
        say(f"head of {member}: best mIoU {miou:.2f} at weights {', '.join(weights)}")
    _done(output, quiet)


@diagnose_app.command("norm")
def norm_command(
    merge: Annotated[str, typer.Argument(help="A merge: a SegFormer folder or Hub id.")],
    output: Output,
    members: Annotated[
        list[str] | None, typer.Option("--member", help="What it was merged from, to compare.")
    ] = None,
    recipe: Recipe = None,
    domain: Domain = None,
    data_dir: DataDir = None,
    config: Config = None,
    options: Options = None,
    split: Split = "val",
    train: Annotated[
        str, typer.Option(help="The domain's split to recalibrate on; a recipe names its own.")
    ] = "train",
    recalibrate_on: Annotated[
        int, typer.Option(min=1, help="About so many images to recalibrate on.")
    ] = 100,
    images: Images = None,
    protocol: ProtocolName = None,
    max_size: Bound = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """How far the head's BatchNorm statistics are off, before and after recalibration."""
    from revt_hf.analysis import command

    where = (recipe, domain, data_dir, config, split, options)
    request = _request(where, output, protocol, max_size, images, 0, overwrite, quiet)
    sources = command.norm_sources(recipe, request.splits, train)
    _check_json(json_file, [merge, *(members or []), recipe, data_dir], output)
    result = command.norm_command(merge, members or [], sources, recalibrate_on, request)
    _keep(result, json_file)
    for row in result["models"]:
        say(
            f"{row['model']} ({row['kind']}): mean off by {row['mean_shift_rms']:.3f} running "
            f"standard deviations (rms), log variance ratio {row['log_variance_ratio_rms']:.3f}"
        )
    _done(output, quiet)


@diagnose_app.command("disagreement")
def disagreement_command(
    members: Members,
    merge: Annotated[str, typer.Option(help="Their merge.")],
    output: Output,
    recipe: Recipe = None,
    domain: Domain = None,
    data_dir: DataDir = None,
    config: Config = None,
    options: Options = None,
    split: Split = "val",
    show: Annotated[int, typer.Option(min=1, help="So many of the most disputed images.")] = 4,
    images: Images = None,
    protocol: ProtocolName = None,
    max_size: Bound = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Where members differ on images, and what their merge decides there."""
    from revt_hf.analysis import command

    where = (recipe, domain, data_dir, config, split, options)
    request = _request(where, output, protocol, max_size, images, 0, overwrite, quiet)
    _check_json(json_file, [*members, merge, recipe, data_dir], output)
    result = command.disagreement_command(members, merge, show, request)
    _keep(result, json_file)
    say(f"members differ on {result['disputed']:.2f} % of the pixels; there the merge follows")
    followed = result["merge_on_disputed"]
    print(", ".join(f"{who} {_percent(share)}" for who, share in followed.items()))
    for kind, row in result["accuracy"].items():
        accuracies = [f"{name} {_percent(row[name])}" for name in (*members, merge)]
        say(f"right on {kind} pixels: {', '.join(accuracies)}")
    _done(output, quiet)


def _request(
    where: tuple[Any, ...],
    output: Path,
    protocol: str | None,
    max_size: str | None,
    images: int | None,
    workers: int,
    overwrite: bool,
    quiet: bool,
) -> "Request":
    from revt_hf.analysis.command import Request, diagnosis_splits

    recipe, domain, data_dir, config, split, options = where
    splits = diagnosis_splits(recipe, domain, data_dir, config, split, options or [])
    return Request(splits, output, protocol, max_size, images, workers, overwrite, quiet)


def _check_json(json_file: Path | None, inputs: list[Any], output: Path) -> None:
    from revt_hf.core.outputs import check_output_file

    check_output_file(json_file, inputs=inputs, outputs=[output])


def _keep(result: dict[str, Any], json_file: Path | None) -> None:
    """Write results before they are printed: nobody may be reading."""
    from revt_hf.core.outputs import write_json

    if json_file is not None:
        write_json(json_file, result)


def _done(output: Path, quiet: bool) -> None:
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


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--steps {text}: write whole numbers such as 4,8") from error


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1f} %"


def register(app: typer.Typer) -> None:
    """Add ``revt diagnose`` and ``revt choose``."""
    app.add_typer(diagnose_app, name="diagnose")
    choose.register(app)
