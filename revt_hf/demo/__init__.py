"""The demo: pretrain, fine-tune three members, merge them, and compare all on a page."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from revt_hf.config.recipe import load_recipe
from revt_hf.core.outputs import folder_in_place
from revt_hf.data.augment import method
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.result import splits_of, write_results
from revt_hf.experiments.training_processes import TrainingJob, train_side_by_side
from revt_hf.merging.average import merge
from revt_hf.results.page import write_page
from revt_hf.results.report import ReportModel, compare, write_sheet

METHODS = (1, 4, 6)
PAGE = "report.html"
_WRITTEN = ("init*", "members/*", "revt/*", "results.json", "scenes.png", PAGE)
# One minute on two cores: enough to see that everything runs, too little to learn much.
_QUICK = {
    "init.yaml": ("train.steps=40", "source.options.images=24"),
    "member.yaml": ("train.steps=20", "source.options.images=24", "train.validate_every=10"),
}
_INTRO = (
    "Three SegFormers start from the same encoder and are fine-tuned on the same clean, "
    "game-like street scenes, each with another augmentation method of the paper. ReVT averages "
    "their encoders and keeps one of the decode heads: a single network, at the cost of one. No "
    "model has seen the domains in the columns on the right: the same kind of scenes in other "
    "weather, light and material."
)


def run_demo(
    output: Path, quick: bool = False, overwrite: bool = False, quiet: bool = False
) -> Path:
    """Train, merge and compare on the built-in ``streets`` domain, and return the report page."""
    with folder_in_place(output, overwrite, _WRITTEN):
        return _run(output, quick, quiet)


def _run(output: Path, quick: bool, quiet: bool) -> Path:
    seconds: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        if not quiet:
            print(f"{len(seconds) + 1}/4 {name}", flush=True)
        since = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - since

    init = _job("init", "init.yaml", quick, output / "init")
    members = [
        _job(
            f"member {number}",
            "member.yaml",
            quick,
            output / "members" / f"{number}-{method(number).name}",
            f"model.init={init.output}",
            f"augmentation.method={number}",
            f"train.seed={seed}",
        )
        for seed, number in enumerate(METHODS)
    ]
    recipe = members[0].recipe
    with step("draw street scenes"):
        load_spec(init.recipe.source, init.recipe.source.train)
        load_spec(recipe.source, recipe.source.train)
        splits = splits_of(recipe)
        for split in splits:
            load_spec(split.spec, split.split)
    with step("pretrain on widely varied colours"):
        train_side_by_side([init], quiet)
    with step("fine-tune one member for each augmentation method"):
        train_side_by_side(members, quiet)
    with step("merge, evaluate on unseen domains, draw"):
        report = compare(
            "ReVT on street scenes",
            _INTRO,
            _models(init, members, output),
            splits,
            recipe.evaluation,
            {"Recipes": _recipes_text(init, members)},
            quiet=quiet,
        )
    durations = {**seconds, "together": sum(seconds.values())}
    report.details["Durations"] = "\n".join(f"{name}: {s:.0f} s" for name, s in durations.items())
    write_results(output / "results.json", report.results)
    write_sheet(report, output / "scenes.png")
    write_page(report, output / PAGE)
    return output / PAGE


def _job(name: str, file: str, quick: bool, output: Path, *overrides: str) -> TrainingJob:
    short = _QUICK[file] if quick else ()
    with as_file(files("revt_hf.demo") / "recipes") as folder:
        return TrainingJob(name, load_recipe(folder / file, [*short, *overrides]), output)


def _models(init: TrainingJob, members: list[TrainingJob], output: Path) -> list[ReportModel]:
    models = [ReportModel("init", "init", init.output, "widely varied colours; own head")]
    for number, member in zip(METHODS, members, strict=True):
        models.append(ReportModel(member.name, "member", member.output, method(number).name))
    for index, number in enumerate(METHODS):
        order = [members[index], *members[:index], *members[index + 1 :]]
        merged = merge([job.output for job in order], output / "revt" / f"head-{number}")
        name = f"ReVT, head {number}"
        models.append(ReportModel(name, "merge", merged, f"head of member {number}"))
    return models


def _recipes_text(init: TrainingJob, members: list[TrainingJob]) -> str:
    parts = [f"# {job.name}\n{job.recipe.to_yaml()}" for job in (init, members[0])]
    others = ", ".join(job.name for job in members[1:])
    return "\n".join([*parts, f"# {others}: as {members[0].name}, with its own method and seed"])
