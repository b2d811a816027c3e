"""``revt train``, ``recipe``, ``run``, ``submit`` and ``demo``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.options import OutputOptions, Overrides, Overwrite, Quiet, Recipe, with_options
from revt_hf.core.errors import UserError, counted, say

recipe_app = typer.Typer(name="recipe", help="Show recipes and their schema.", no_args_is_help=True)

ExperimentFile = Annotated[Path, typer.Argument(help="Experiment (YAML).")]
ExperimentFolder = Annotated[
    Path, typer.Option("--output", help="Folder of the experiment; finished steps are kept.")
]
Launcher = Annotated[
    str | None,
    typer.Option(metavar="COMMAND", help="Start trainings with this, such as 'accelerate launch'."),
]


@with_options
def train(
    recipe: Recipe,
    output: Annotated[Path, "Folder of the trained SegFormer."],
    overrides: Overrides = None,
    resume: Annotated[bool, "Resume from the latest checkpoint."] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a SegFormer with the settings of a recipe."""
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


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of training recipes, for editors."""
    from revt_hf.config import recipe

    print(json.dumps(recipe.recipe_schema(), indent=2))


@recipe_app.command("show")
def recipe_show(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print a recipe with its parents, overrides and defaults resolved."""
    from revt_hf.config.recipe import load_recipe

    print(load_recipe(recipe, overrides or []).to_yaml(), end="")


@with_options
def run(
    experiment: ExperimentFile,
    output: ExperimentFolder,
    report: OutputOptions,
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEPS",
            help="Run only these steps and what they need, such as 'members/*' or merges/revt.",
        ),
    ] = None,
    no_needs: Annotated[bool, "With --only: do not run what the steps need."] = False,
    dry_run: Annotated[bool, "Show the steps and their states; run nothing."] = False,
    report_only: Annotated[bool, "Write tables and report of finished steps only."] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Run this many trainings side by side. Default: one per GPU, or one per core.",
        ),
    ] = None,
    launcher: Launcher = None,
) -> None:
    """Run a whole experiment: members, merges, ensembles, scores, tables and report."""
    from rich.console import Console

    from revt_hf.experiments.execution import ExperimentOptions, plan_experiment, run_experiment

    quiet, steps = report.quiet, tuple(only or ())
    _check_json(report, output, [experiment], writes=not dry_run)
    options = ExperimentOptions(steps, not no_needs, report_only, jobs, launcher, quiet)
    if dry_run:
        tree, rows = plan_experiment(experiment, output, overrides or [], options)
        Console().print(tree)
        report.finish(rows)
        return
    outcome = run_experiment(experiment, output, overrides or [], options)
    report.finish(outcome.steps, [] if quiet else [f"written: {path}" for path in outcome.written])
    problem = outcome.problem()
    if problem is not None:
        raise UserError(problem)
    if not quiet and not report_only:
        say(f"{counted(len(outcome.done), 'step')} done, {len(outcome.kept)} were: {output}")


@with_options
def submit(
    experiment: ExperimentFile,
    output: ExperimentFolder,
    report: OutputOptions,
    overrides: Overrides = None,
    slurm: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings of the jobs (YAML).")
    ] = None,
    partition: Annotated[str | None, "Slurm partition."] = None,
    account: Annotated[str | None, "Slurm account to charge."] = None,
    time: Annotated[str | None, "Time limit of a task, such as 12:00:00."] = None,
    gpus: Annotated[str | None, "GPUs of a task, such as 1 or a100:2."] = None,
    cpus: Annotated[int | None, "Cores of a task."] = None,
    memory: Annotated[str | None, "Memory of a task, such as 32G."] = None,
    launcher: Launcher = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Show scripts and commands; submit nothing.")
    ] = False,
) -> None:
    """Submit the remaining steps of an experiment to Slurm, as array jobs."""
    from revt_hf.experiments.slurm_jobs import as_text, submit_experiment
    from revt_hf.experiments.slurm_settings import load_settings

    resources = {"partition": partition, "account": account, "time": time, "gpus": gpus}
    flags = {**resources, "cpus": cpus, "memory": memory, "launcher": launcher}
    _check_json(report, output, [experiment, slurm], writes=not only_print)
    settings = load_settings(slurm, flags)
    jobs = submit_experiment(experiment, output, overrides or [], settings, dry_run=only_print)
    lines = []
    if not jobs:
        done = "all steps are done, nothing is left to submit"
        lines = [f"{done}: revt run --report-only writes tables and report"]
    elif only_print:
        print(as_text(jobs), end="")
    elif not report.quiet:
        for job in jobs:
            after = f", after {', '.join(job.after)}" if job.after else ""
            tasks = counted(len(job.tasks), "task")
            lines.append(f"{job.name}: job {job.number}, {tasks}{after}")
        lines.append(f"scripts, logs and job numbers: {jobs[0].file.parent}")
    report.finish([job.to_json() for job in jobs], lines)


def _check_json(
    report: OutputOptions, output: Path, inputs: list[Path | None], writes: bool
) -> None:
    """Refuse JSON in a folder that must hold nothing else before it becomes an experiment's."""
    from revt_hf.experiments.experiment_folder import ExperimentFolder

    begun = writes or ExperimentFolder(output, {}).is_begun
    report.check(inputs, [] if begun else [output])


@with_options
def demo(
    output: Annotated[Path, "Folder to write."] = Path("demo"),
    quick: Annotated[bool, "Take one minute, just to see that everything runs."] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train, merge and compare models on built-in street scenes, and write a report page."""
    from revt_hf.demo.run import run_demo

    page = run_demo(output, quick=quick, overwrite=overwrite, quiet=quiet)
    say(f"open {page}")
