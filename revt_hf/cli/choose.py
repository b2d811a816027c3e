"""``revt choose``: parse, validate, call."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revt_hf.cli.data import Json, Overwrite, Quiet
from revt_hf.cli.evaluate import Bound, Images, Members, ProtocolName, Workers
from revt_hf.core.errors import say

if TYPE_CHECKING:
    from revt_hf.analysis.choosing import Choice, Judge

choose_app = typer.Typer(
    help="Choose members and weights of a merge, on source-val only.", no_args_is_help=True
)

Recipe = Annotated[Path, typer.Option(help="Its source-val is scored on, never its targets.")]
Output = Annotated[Path, typer.Option(metavar="FILE", help="The merge recipe (YAML).")]
On = Annotated[
    list[str] | None, typer.Option(help="Of several sources this one's val, such as gta5/val.")
]
Head = Annotated[
    int | None,
    typer.Option(min=1, help="Which member's head merges get; default: try all, take the best."),
]


@choose_app.command("soup")
def soup(
    members: Members,
    recipe: Recipe,
    output: Output,
    on: On = None,
    head: Head = None,
    images: Images = None,
    protocol: ProtocolName = None,
    max_size: Bound = None,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Greedy soup: add members, the best first, while source-val mIoU does not drop."""
    from revt_hf.analysis.choosing import greedy_soup

    how = _options(on, head, protocol, max_size, images, workers, overwrite, quiet)
    _choose(
        greedy_soup, "Greedy soup", 2 * len(members) - 1, members, recipe, output, how, json_file
    )


@choose_app.command("weights")
def weights(
    members: Members,
    recipe: Recipe,
    output: Output,
    evaluations: Annotated[int, typer.Option(min=2, help="At most so many merges.")] = 40,
    on: On = None,
    head: Head = None,
    images: Images = None,
    protocol: ProtocolName = None,
    max_size: Bound = None,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Search for the best weights: a grid, then Nelder-Mead from its best point."""
    from revt_hf.analysis.choosing import search_weights

    how = _options(on, head, protocol, max_size, images, workers, overwrite, quiet)
    search = partial(search_weights, evaluations=evaluations)
    _choose(search, "Weight search", evaluations, members, recipe, output, how, json_file)


@choose_app.command("leave-one-out")
def leave_one_out(
    members: Members,
    recipe: Recipe,
    output: Output,
    on: On = None,
    head: Head = None,
    images: Images = None,
    protocol: ProtocolName = None,
    max_size: Bound = None,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """What each member adds to the mean of all; the best mean with at most one left out."""
    from revt_hf.analysis.choosing import leave_one_out as method

    how = _options(on, head, protocol, max_size, images, workers, overwrite, quiet)
    _choose(method, "Leave one out", len(members) + 1, members, recipe, output, how, json_file)


def _options(
    on: list[str] | None,
    head: int | None,
    protocol: str | None,
    max_size: str | None,
    images: int | None,
    workers: int,
    overwrite: bool,
    quiet: bool,
) -> Any:
    from revt_hf.analysis.choose_command import ChooseOptions

    return ChooseOptions(
        tuple(on or ()), head, protocol, max_size, images, workers, overwrite, quiet
    )


def _choose(
    method: "Callable[[Judge], Choice]",
    title: str,
    merges: int,
    members: list[str],
    recipe: Path,
    output: Path,
    how: Any,
    json_file: Path | None,
) -> None:
    from revt_hf.analysis.choose_command import choose_command
    from revt_hf.core.outputs import check_output_file, write_json

    check_output_file(json_file, inputs=[*members, recipe], outputs=[output])
    result = choose_command(members, recipe, output, method, title, merges, how)
    if json_file is not None:
        write_json(json_file, result)
    print("\n".join(result["report"]))
    if not how.quiet:
        say(f"written: {output}; revt merge --recipe {output} --output FOLDER")


def register(app: typer.Typer) -> None:
    """Add ``revt choose``."""
    app.add_typer(choose_app, name="choose")
