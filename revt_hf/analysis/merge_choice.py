"""Choose a merge on source-val and write its recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from revt_hf.analysis.blending import Blender, ScoringData, load_data
from revt_hf.analysis.choosing import (
    Candidate,
    Choice,
    MergeScorer,
    greedy_soup,
    leave_one_out,
    search_weights,
)
from revt_hf.analysis.similarity import aligned
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import load_recipe
from revt_hf.core.errors import UserError, printable
from revt_hf.core.outputs import check_output_file, write_text
from revt_hf.evaluation.result import splits_of


@dataclass(frozen=True)
class ChooseOptions:
    """Options of :func:`choose_merge`, named as those of ``revt choose``."""

    protocol: Protocol
    on: tuple[str, ...] = ()
    head: int | None = None
    evaluations: int = 40
    images: int | None = None
    workers: int = 0
    overwrite: bool = False
    quiet: bool = False


# Title, function of scorer and evaluations, and the most merges that it scores, from the numbers
# of members and of evaluations.
METHODS: dict[str, tuple[str, Callable[[MergeScorer, int], Choice], Callable[[int, int], int]]] = {
    "soup": ("Greedy soup", greedy_soup, lambda n, _: 2 * n - 1),
    "weights": ("Weight search", search_weights, lambda _, evaluations: evaluations),
    "leave-one-out": ("Leave one out", leave_one_out, lambda n, _: n + 1),
}


def choose_merge(
    method: str, members: Mapping[str, str], recipe: Path, output: Path, options: ChooseOptions
) -> dict[str, Any]:
    """Choose a merge on source-val of a training recipe, and write its merge recipe."""
    title, choose, most_merges = METHODS[method]
    paths = list(members.values())
    loaded = load_recipe(recipe)
    check_output_file(output, options.overwrite, [*paths, recipe, *loaded.inputs])
    known = {split.label: split for split in splits_of(loaded)}
    sources = [label for label, split in known.items() if split.is_source]
    for label in options.on:
        if label not in known:
            raise UserError(f"--on {label}: the recipe's sources are {', '.join(sources)}")
    splits = [known[label] for label in options.on or sources]
    data = load_data(splits, options.protocol, options.images, options.workers)
    total = most_merges(len(paths), options.evaluations) * data.images
    with (
        Blender(paths, quiet=options.quiet) as blender,
        tqdm(total=total, desc="choose", unit="image", disable=options.quiet) as bar,
    ):
        data.check(blender.model)
        records = blender.records()
        scorer = MergeScorer(blender, data, options.head, bar.update)
        choice = choose(scorer, options.evaluations)
    lines = _report(choice, list(members))
    write_text(output, _recipe_text(title, choice.chosen, paths, data, lines))
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


def _report(choice: Choice, members: Sequence[str]) -> list[str]:
    rows = [["members", "weights", "head", "mIoU", "loss"]]
    for one in choice.tried:
        names = "+".join(map(str, one.members)) + ("  *" if one is choice.chosen else "")
        weights = ", ".join(f"{weight:.3f}" for weight in one.weights or ()) or "-"
        loss = one.scores[one.head].loss
        rows.append([names, weights, str(one.head), f"{one.miou:.2f}", f"{loss:.4f}"])
    return [
        *(f"{number}: {member}" for number, member in enumerate(members, 1)),
        *aligned(rows).splitlines(),
        *(f"{members[n - 1]} adds {value:+.2f} points" for n, value in choice.values.items()),
    ]


def _recipe_text(
    title: str, chosen: Candidate, members: Sequence[str], data: ScoringData, lines: Sequence[str]
) -> str:
    numbers, weights = list(chosen.members), chosen.weights
    remark = ""
    if chosen.head not in numbers:
        numbers.append(chosen.head)
        weights = (*(weights or [1.0] * (len(numbers) - 1)), 0.0)
    if len(numbers) == 1:
        # A merge needs two members.
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
