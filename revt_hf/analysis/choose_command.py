"""What ``revt choose`` does: score merges on source-val, write the best one's recipe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from revt_hf.analysis.blend_scores import Data, load_data
from revt_hf.analysis.blending import Blender
from revt_hf.analysis.choosing import Candidate, Choice, Judge
from revt_hf.config.recipe import load_recipe
from revt_hf.core.errors import UserError, printable
from revt_hf.core.outputs import check_output_file, write_text
from revt_hf.evaluation.command import chosen_protocol, recipe_splits
from revt_hf.evaluation.splits import SplitSpec
from revt_hf.results.figures import aligned


@dataclass(frozen=True)
class ChooseOptions:
    """How ``revt choose`` scores.

    Attributes:
        on: labels of the recipe's sources to score on; none for all of them.
        head: number of the member whose head every merge gets; None for the best one's.
        protocol: a name of ``PROTOCOLS``; None for what the members' folders name.
        max_size: ``WIDTHxHEIGHT`` or ``native``, in place of the protocol's own.
        images: of each split at most so many, spread over it.
        workers: processes that decode images.
        overwrite: replace the output if it exists.
        quiet: no progress bar.
    """

    on: tuple[str, ...] = ()
    head: int | None = None
    protocol: str | None = None
    max_size: str | None = None
    images: int | None = None
    workers: int = 0
    overwrite: bool = False
    quiet: bool = False


def choose_command(
    members: Sequence[str],
    recipe: Path,
    output: Path,
    method: Callable[[Judge], Choice],
    title: str,
    merges: int,
    options: ChooseOptions,
) -> dict[str, Any]:
    """Choose a merge of members and write its recipe (YAML); all that was tried, as JSON values.

    Args:
        members: at least two folders or Hub ids.
        recipe: whose source-val is scored on.
        output: the merge recipe.
        method: of ``revt_hf.analysis.choosing``.
        title: of the method, for the recipe's first line.
        merges: how many merges it scores at most, for the progress bar.
        options: how.

    Raises:
        UserError: members or data that cannot be used, a target to choose on, or an output that
            exists.
    """
    check_output_file(output, options.overwrite, [*members, recipe, *load_recipe(recipe).inputs])
    splits = _source_splits(recipe, options.on)
    data = load_data(
        splits,
        chosen_protocol(members, options.max_size, options.protocol),
        options.images,
        options.workers,
    )
    with (
        Blender(members, quiet=options.quiet) as blender,
        tqdm(total=merges * data.images, desc="choose", unit="image", disable=options.quiet) as bar,
    ):
        records = blender.records()
        choice = method(Judge(blender, data, options.head, bar.update))
    lines = report(choice, members, data)
    write_text(output, _recipe_text(title, choice.chosen, members, data, lines))
    return {
        "format": "revt_hf.choice/1",
        "method": title,
        **records,
        "data": data.to_json(),
        "chosen": choice.chosen.to_json(),
        "tried": [candidate.to_json() for candidate in choice.tried],
        "values": {str(number): value for number, value in choice.values.items()},
        "report": lines,
    }


def report(choice: Choice, members: Sequence[str], data: Data) -> list[str]:
    """What was tried, in lines of text: members, weights, head, mIoU and loss."""
    rows = [["members", "weights", "head", "mIoU", "loss"]]
    for candidate in choice.tried:
        score = candidate.scores[candidate.head]
        weights = candidate.weights
        rows.append(
            [
                "+".join(map(str, candidate.members))
                + ("  *" if candidate is choice.chosen else ""),
                "-" if weights is None else ", ".join(f"{weight:.3f}" for weight in weights),
                str(candidate.head),
                f"{score.miou:.2f}",
                f"{score.loss:.4f}",
            ]
        )
    numbered = [f"{number}: {member}" for number, member in enumerate(members, 1)]
    values = [
        f"{members[number - 1]} adds {value:+.2f} points" for number, value in choice.values.items()
    ]
    return [*numbered, *aligned(rows).splitlines(), *values]


def _source_splits(recipe: Path, on: Sequence[str]) -> list[SplitSpec]:
    splits = recipe_splits(recipe)
    sources = [split for split in splits if split.is_source]
    if not on:
        return sources
    known = {split.label: split for split in splits}
    for label in on:
        if label not in known:
            raise UserError(f"--on {label}: the recipe's sources are {_labels(sources)}")
        if not known[label].is_source:
            raise UserError(
                f"--on {label}: that is a target of {recipe}; members and weights are chosen on "
                f"source-val only ({_labels(sources)})"
            )
    return [known[label] for label in on]


def _labels(splits: Sequence[SplitSpec]) -> str:
    return ", ".join(split.label for split in splits)


def _recipe_text(
    title: str, chosen: Candidate, members: Sequence[str], data: Data, lines: Sequence[str]
) -> str:
    numbers, weights = list(chosen.members), chosen.weights
    remark = ""
    if chosen.head not in numbers:
        numbers.append(chosen.head)
        weights = (*(weights or [1.0] * (len(numbers) - 1)), 0.0)
    if len(numbers) == 1:
        # A merge has two members at least.
        numbers.append(next(n for n in range(1, len(members) + 1) if n not in numbers))
        weights = (1.0, 0.0)
        remark = "# One member alone was best: the second one has no weight.\n"
    rule: dict[str, Any] = {"select": "backbone", "method": "mean"}
    if weights is not None:
        rule.update(method="weighted_mean", weights=list(weights))
    values = {
        "members": [members[number - 1] for number in numbers],
        "head": numbers.index(chosen.head) + 1,
        "rules": [rule],
    }
    comment = "".join(f"#   {printable(line)}\n" for line in lines)
    return (
        f"# {title}, scored on {printable(data.label)} ({data.images} images). Run it:\n"
        f"# revt merge --recipe THIS_FILE --output FOLDER\n#\n{comment}{remark}"
        + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    )
