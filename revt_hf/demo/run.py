"""``revt demo``: a broad start, three members, their ReVT, and a page that compares them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from tqdm import tqdm

from revt_hf.config.recipe import load_recipe
from revt_hf.core.outputs import folder_in_place
from revt_hf.data.augment import method
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.result import write_results
from revt_hf.evaluation.splits import splits_of
from revt_hf.experiments.training_processes import TrainingJob, train_side_by_side
from revt_hf.merging.average import merge
from revt_hf.results.build import Comparison, Entry, compare, write_sheet
from revt_hf.results.page import Model, write_page

METHODS = (1, 4, 6)
PAGE = "report.html"
_WRITTEN = ("init*", "members/*", "revt/*", "results.json", "scenes.png", PAGE)
# One minute on two cores: enough to see that everything runs, too little to learn much.
_QUICK = {
    "init.yaml": ("train.steps=40", "source.options.images=24"),
    "member.yaml": (
        "train.steps=20",
        "source.options.images=24",
        "train.validate_every=10",
    ),
}
_INTRO = (
    "Three SegFormers start from the same encoder and are fine-tuned on the same clean, "
    "game-like street scenes, each with another augmentation method of the paper. ReVT averages "
    "their encoders and keeps one of the decode heads: one network, at the cost of one. None of "
    "the models has seen the domains in the columns on the right; they show the same kind of "
    "scenes in other weather, light and material."
)


def run_demo(
    output: Path, quick: bool = False, overwrite: bool = False, quiet: bool = False
) -> Path:
    """Train, merge and compare on the built-in ``streets`` domain.

    Args:
        output: gets ``init/``, ``members/``, ``revt/``, ``results.json``, ``scenes.png`` and
            ``report.html``.
        quick: a minute's version that only shows that everything runs.
        overwrite: replace ``output`` if it exists.
        quiet: no progress bars.

    Returns:
        The page.

    Raises:
        UserError: ``output`` exists and ``overwrite`` is false, or a step failed.
    """
    with folder_in_place(output, overwrite, _WRITTEN):
        return _run(output, quick, quiet)


def _run(output: Path, quick: bool, quiet: bool) -> Path:
    clock = _Clock()
    start = _job("init", "init.yaml", quick, output / "init")
    members = [
        _job(
            f"member {number}",
            "member.yaml",
            quick,
            output / "members" / f"{number}-{method(number).name}",
            f"model.init={output / 'init'}",
            f"augmentation.method={number}",
            f"train.seed={seed}",
        )
        for seed, number in enumerate(METHODS)
    ]
    recipe = members[0].recipe
    with clock.measure("rendering the scenes"):
        _say("1/4 draw street scenes", quiet)
        load_spec(start.recipe.source, start.recipe.source.train)
        load_spec(recipe.source, recipe.source.train)
        splits = [(row, load_spec(row.spec, row.split)) for row in splits_of(recipe)]
    with clock.measure("training the start"):
        _say("2/4 train the start on widely varied colours", quiet)
        train_side_by_side([start], quiet)
    with clock.measure("fine-tuning the members"):
        _say("3/4 fine-tune one member for each augmentation method", quiet)
        train_side_by_side(members, quiet)
    with clock.measure("merging and evaluating"):
        _say("4/4 merge, evaluate on unseen domains, draw", quiet)
        entries = _entries(start, members, output)
        total = sum(len(images) for _, images in splits)
        with tqdm(total=total, unit="image", disable=quiet) as progress:
            comparison = compare(
                "ReVT on street scenes",
                _INTRO,
                entries,
                splits,
                recipe.evaluation,
                {"Recipes": _recipes_text(start, members)},
                progress.update,
            )
    return _write(comparison, output, clock)


def _job(name: str, file: str, quick: bool, output: Path, *overrides: str) -> TrainingJob:
    short = _QUICK[file] if quick else ()
    with as_file(files("revt_hf.demo") / "recipes") as folder:
        return TrainingJob(name, load_recipe(folder / file, [*short, *overrides]), output)


def _entries(start: TrainingJob, members: list[TrainingJob], output: Path) -> list[Entry]:
    entries = [Entry(Model("init", "init", "widely varied colours; own head"), start.output)]
    for number, member in zip(METHODS, members, strict=True):
        entries.append(Entry(Model(member.name, "member", method(number).name), member.output))
    for index, number in enumerate(METHODS):
        order = [members[index], *members[:index], *members[index + 1 :]]
        merged = merge([job.output for job in order], output / "revt" / f"head-{number}")
        name = f"ReVT, head {number}"
        entries.append(Entry(Model(name, "revt", f"head of member {number}"), merged))
    return entries


def _recipes_text(start: TrainingJob, members: list[TrainingJob]) -> str:
    parts = [f"# {job.name}\n{job.recipe.to_yaml()}" for job in (start, members[0])]
    others = ", ".join(job.name for job in members[1:])
    return "\n".join([*parts, f"# {others}: as {members[0].name}, with its own method and seed"])


def _write(comparison: Comparison, output: Path, clock: "_Clock") -> Path:
    report = comparison.report
    report.details["Durations"] = clock.text()
    write_results(output / "results.json", comparison.results)
    write_sheet(report, output / "scenes.png")
    page = output / PAGE
    write_page(report, page)
    return page


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, flush=True)


class _Clock:
    """How long the parts took, in seconds."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        since = time.perf_counter()
        yield
        self._parts[part] = time.perf_counter() - since

    def text(self) -> str:
        rows = [f"{part}: {seconds:.0f} s" for part, seconds in self._parts.items()]
        return "\n".join([*rows, f"together: {sum(self._parts.values()):.0f} s"])
