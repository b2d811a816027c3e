"""What ``revt report`` does: model folders and a recipe's splits to a page."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from revt_hf.config.recipe import load_recipe
from revt_hf.core.outputs import check_output_file, check_suffix
from revt_hf.evaluation.command import chosen_protocol, recipe_splits
from revt_hf.evaluation.loading import load_labelled
from revt_hf.evaluation.result import Result
from revt_hf.models.recorded import recorded_recipe
from revt_hf.results.build import Entry, compare
from revt_hf.results.page import Model, write_page
from revt_hf.results.report import Kind

_INTRO = (
    "Members are fine-tuned on one domain, each with its own augmentation. ReVT averages their "
    "encoders and keeps one decode head: one network, at the cost of one. The domains on the "
    "right were never trained or selected on."
)


def report_command(
    output: Path,
    recipe: Path,
    members: Sequence[Path],
    revts: Sequence[Path],
    start: Path | None,
    max_size: str | None,
    quiet: bool,
    overwrite: bool = False,
) -> list[Result]:
    """Score and draw models on a recipe's source-val and targets; write the page.

    Args:
        output: the page.
        recipe: names the splits.
        members: folders of the members.
        revts: folders of merges; the first one is the headline's.
        start: folder of what the members started from; shown greyed, if it has a head.
        max_size: ``WIDTHxHEIGHT``, ``native``, or None for what the folders name.
        quiet: no progress bar.
        overwrite: replace ``output`` if it exists.

    Raises:
        UserError: a model, a domain or the max_size cannot be used, or the recipe has no target.
    """
    kinds: tuple[tuple[Kind, Sequence[Path]], ...] = (
        ("init", [start] if start else []),
        ("member", members),
        ("revt", revts),
    )
    entries = [
        Entry(Model(_name(folder), kind, _note(folder)), folder)
        for kind, folders in kinds
        for folder in folders
    ]
    inputs = [recipe, *(entry.folder for entry in entries), *load_recipe(recipe).inputs]
    check_suffix(output, ".html", ".htm")
    check_output_file(output, overwrite, inputs)
    protocol = chosen_protocol([entry.folder for entry in entries], max_size)
    splits = [(split, load_labelled(split.spec, split.split)) for split in recipe_splits(recipe)]
    with tqdm(
        total=sum(len(images) for _, images in splits), unit="image", disable=quiet
    ) as progress:
        comparison = compare(
            "ReVT and its members",
            _INTRO,
            entries,
            splits,
            protocol,
            {"Models": "\n".join(str(entry.folder) for entry in entries)},
            progress.update,
        )
    write_page(comparison.report, output)
    return comparison.results


def _name(folder: Path) -> str:
    return folder.resolve().name


def _note(folder: Path) -> str:
    recipe = recorded_recipe(folder)
    return "" if recipe is None else f"method {recipe.augmentation.method}"
