"""``revt data``, ``train``, ``recipe``, ``run`` and ``demo``."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from revt_hf.cli import options as common
from revt_hf.cli.options import Bounds
from revt_hf.core.errors import UserError, counted, say

if TYPE_CHECKING:
    from revt_hf.data.domains.prepared import Format

EXIT_BAD_DATA = 2
OutputFormat = StrEnum("OutputFormat", ["webp", "png", "raw", "parquet"])


Domain = Annotated[str, typer.Argument(help="Domain; revt data list shows all.")]
Threads = Annotated[
    int | None, "--workers", Bounds(1, 256), "Number of threads; default: all cores."
]
ExperimentFile = Annotated[Path, typer.Argument(help="Experiment (YAML).")]
ExperimentFolder = Annotated[Path, "--output", "Folder of the experiment; finished steps are kept."]
Launcher = Annotated[
    str | None, "COMMAND", "Start trainings with this, such as 'accelerate launch'."
]


def list_domains(json_file: common.Json = None) -> None:
    """List all datasets: kind, images, license, where to get them."""
    from rich.console import Console

    from revt_hf.data_tools.inspection import listing, listing_table

    common.OutputOptions(json_file).finish(listing())
    Console().print(listing_table())


def verify_command(
    name: Domain,
    settings: common.DomainOptions,
    report: common.OutputOptions,
    strict: Annotated[bool, "Fail if a split is not of its official size."] = False,
    workers: Threads = None,
    starter: Annotated[
        Path | None,
        "FILE",
        "Instead, write a recipe's source section with a class for each value of the labels.",
    ] = None,
    overwrite: common.Overwrite = False,
) -> None:
    """Read a whole dataset: layout, counts, broken files, unknown labels, class shares."""
    from revt_hf.data_tools.inspection import verify

    report.check([settings.data_dir])
    if starter is not None:
        from revt_hf.data_tools.starter import write_starter

        count = write_starter(settings.spec(name), starter, overwrite, report.quiet)
        say(f"{counted(count, 'value')} of the labels: {starter}")
        return
    result = verify(settings.spec(name), workers, report.quiet)
    report.finish(result.to_json())
    print(result.text)
    if result.problems or (strict and not result.is_complete):
        raise typer.Exit(EXIT_BAD_DATA)


def show_command(
    name: Domain,
    settings: common.DomainOptions,
    output: Annotated[Path, "Contact sheet (PNG) to write."],
    split: common.Split = "val",
    images: Annotated[int, Bounds(1), "Show at most this many images."] = 6,
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,  # noqa: ARG001
) -> None:
    """Draw images of a dataset with their coloured labels."""
    from revt_hf.data_tools.inspection import show

    count = show(settings.spec(name), split, output, images, overwrite)
    say(f"{counted(count, 'image')} of {name}/{split}: {output}")


def prepare_command(
    name: Domain,
    settings: common.DomainOptions,
    output: Annotated[Path, "Folder to write."],
    split: Annotated[
        list[str] | None, "Split to prepare, default train; parquet takes several."
    ] = None,
    resize: Annotated[
        str | None, "WIDTHxHEIGHT", "Max size, or native. Default: 1280x720; native for parquet."
    ] = None,
    format: Annotated[
        OutputFormat | None,
        "webp (default), png and raw are for training; parquet is a Hub dataset.",
    ] = None,
    push: Annotated[str | None, "REPO_ID", "Push the parquet files to the Hub."] = None,
    private: Annotated[bool, "Make that repository private."] = False,
    license: Annotated[str | None, "Confirm the license under which images are passed on."] = None,
    workers: Threads = None,
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,
) -> None:
    """Resize images once for faster training, or pack them for the Hub."""
    format = format or (OutputFormat.parquet if push else OutputFormat.webp)
    default = None if format is OutputFormat.parquet else (1280, 720)
    max_size = default if resize is None else common.parse_max_size(resize, "--resize")
    splits = split or ["train"]
    if format is OutputFormat.parquet:
        if workers is not None:
            raise UserError("--workers is for the formats webp, png and raw")
        from revt_hf.data_tools.export import ExportOptions, export_parquet

        options = ExportOptions(max_size, license, push, private, overwrite, quiet)
        done = export_parquet(settings.spec(name), splits, output, options)
        say(f"packed: {done}{f', pushed to {push}' if push else ''}")
        return
    if push or license or private:
        raise UserError("--push, --private and --license go with --format parquet")
    if len(splits) > 1:
        raise UserError("give one --split: each prepared folder holds one")
    from revt_hf.data_tools.prepare import prepare

    what = (settings.spec(name), splits[0], output, max_size, cast("Format", format.value))
    record = prepare(*what, overwrite, workers, quiet)
    count = counted(record.images, "image")
    remark = f"in a recipe: source.prepared: {output}"
    say(f"prepared {count} of {name}/{record.split}: {output}; {remark}")


def train(
    recipe: common.RecipeFile,
    output: Annotated[Path, "Folder of the trained model."],
    overrides: common.Overrides = None,
    resume: Annotated[bool, "Resume from the latest checkpoint."] = False,
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,
) -> None:
    """Fine-tune a model with the settings of a recipe."""
    from revt_hf.config.recipe import load_recipe
    from revt_hf.core.outputs import check_output

    loaded = load_recipe(recipe, overrides or [])
    if not resume:
        check_output(output, overwrite, [recipe])
    from revt_hf.core.processes import process_state
    from revt_hf.training import loop

    done = loop.train(loaded, output, loop.TrainOptions(resume, overwrite, quiet))
    if not quiet and process_state().is_main_process:
        say(f"trained: {done}")


def recipe_schema() -> None:
    """Print the JSON schema of training recipes, for editors."""
    from revt_hf.config import recipe

    print(json.dumps(recipe.recipe_schema(), indent=2))


def recipe_show(recipe: common.RecipeFile, overrides: common.Overrides = None) -> None:
    """Print a recipe with its parents, overrides and defaults resolved."""
    from revt_hf.config.recipe import load_recipe

    print(load_recipe(recipe, overrides or []).to_yaml(), end="")


def run(
    experiment: ExperimentFile,
    output: ExperimentFolder,
    report: common.OutputOptions,
    overrides: common.Overrides = None,
    only: Annotated[
        list[str] | None,
        "STEPS",
        "Run only these steps and what they need, such as 'members/*' or merges/revt.",
    ] = None,
    no_needs: Annotated[bool, "With --only: do not run what the steps need."] = False,
    dry_run: Annotated[bool, "Show the steps and their states; run nothing."] = False,
    report_only: Annotated[bool, "Write tables and report of finished steps only."] = False,
    jobs: Annotated[
        int | None,
        Bounds(1, 1024),
        "Run this many trainings side by side. Default: one per GPU, or one per core.",
    ] = None,
    launcher: Launcher = None,
) -> None:
    """Run a whole experiment: members, merges, ensembles, scores, tables and report."""
    from rich.console import Console

    from revt_hf.experiments.execution import ExperimentOptions, plan_experiment, run_experiment

    quiet, steps = report.quiet, tuple(only or ())
    check_json(report, output, [experiment], writes=not dry_run)
    options = ExperimentOptions(steps, not no_needs, report_only, jobs, launcher, quiet)
    what = (experiment, output, overrides or [], options)
    if dry_run:
        tree, rows = plan_experiment(*what)
        Console().print(tree)
        report.finish(rows)
        return
    outcome = run_experiment(*what)
    report.finish(outcome.steps, [] if quiet else [f"written: {path}" for path in outcome.written])
    problem = outcome.problem()
    if problem is not None:
        raise UserError(problem)
    if not quiet and not report_only:
        say(f"{counted(len(outcome.done), 'step')} done, {len(outcome.kept)} were: {output}")


def check_json(
    report: common.OutputOptions, output: Path, inputs: list[Path | None], writes: bool
) -> None:
    """Refuse JSON in a folder that must hold nothing else before it becomes an experiment's."""
    from revt_hf.experiments.experiment_folder import ExperimentFolder

    report.check(inputs, [] if writes or ExperimentFolder(output, {}).is_begun else [output])


def demo(
    output: Annotated[Path, "Folder to write."] = Path("demo"),
    quick: Annotated[bool, "Take one minute, just to see that everything runs."] = False,
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,
) -> None:
    """Train, merge and compare models on built-in street scenes, and write a report page."""
    from revt_hf.demo import run_demo

    say(f"open {run_demo(output, quick=quick, overwrite=overwrite, quiet=quiet)}")
