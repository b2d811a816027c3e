"""``revt submit``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from revt_hf.cli import options as common
from revt_hf.cli.training import ExperimentFile, ExperimentFolder, Launcher, check_json
from revt_hf.core.errors import UserError, counted

if TYPE_CHECKING:
    from revt_hf.experiments.hf_settings import HfJobsSettings


def submit(
    experiment: ExperimentFile,
    output: ExperimentFolder,
    report: common.OutputOptions,
    overrides: common.Overrides = None,
    to: Annotated[str, "Submit to slurm or hf-jobs (the Hub's machines)."] = "slurm",
    settings: Annotated[Path | None, "FILE", "Settings of the jobs (YAML)."] = None,
    partition: Annotated[str | None, "Slurm partition."] = None,
    account: Annotated[str | None, "Slurm account to charge."] = None,
    time: Annotated[str | None, "Slurm: time limit of a task, such as 12:00:00."] = None,
    gpus: Annotated[str | None, "Slurm: GPUs of a task, such as 1 or a100:2."] = None,
    cpus: Annotated[int | None, "Slurm: cores of a task."] = None,
    memory: Annotated[str | None, "Slurm: memory of a task, such as 32G."] = None,
    launcher: Launcher = None,
    only_print: Annotated[bool, "--print", "Show what would be sent; submit nothing."] = False,
) -> None:
    """Submit the remaining steps of an experiment to Slurm, or wait for jobs of the Hub."""
    resources = {"partition": partition, "account": account, "time": time, "gpus": gpus}
    flags = {**resources, "cpus": cpus, "memory": memory}
    check_json(report, output, [experiment, settings], writes=not only_print)
    if to == "hf-jobs":
        from revt_hf.experiments.hf_settings import load_hf_settings

        if given := [name for name, value in flags.items() if value is not None]:
            raise UserError(f"--{given[0]} is of Slurm: with --to hf-jobs, use --settings FILE")
        what = (experiment, output, overrides or [])
        _submit_to_hub(what, load_hf_settings(settings, launcher), report, only_print)
        return
    if to != "slurm":
        raise UserError(f"--to '{to}': use slurm or hf-jobs")
    from revt_hf.experiments.slurm_jobs import as_text, submit_experiment
    from revt_hf.experiments.slurm_settings import load_settings

    loaded = load_settings(settings, {**flags, "launcher": launcher})
    jobs = submit_experiment(experiment, output, overrides or [], loaded, dry_run=only_print)
    done = "all steps are done, nothing is left to submit: revt run --report-only writes tables"
    lines = [] if jobs else [f"{done} and report"]
    if only_print and jobs:
        print(as_text(jobs), end="")
    elif jobs and not report.quiet:
        for job in jobs:
            after = f", after {', '.join(job.after)}" if job.after else ""
            tasks = counted(len(job.stage.tasks), "task")
            lines.append(f"{job.name}: job {job.number}, {tasks}{after}")
        lines.append(f"scripts, logs and job numbers: {jobs[0].file.parent}")
    report.finish([job.to_json() for job in jobs], lines)


def _submit_to_hub(
    what: tuple[Path, Path, list[str]],
    settings: "HfJobsSettings",
    report: common.OutputOptions,
    only_print: bool,
) -> None:
    from revt_hf.experiments import hf_jobs, hf_tasks

    plan = (hf_tasks.plan_jobs if only_print else hf_jobs.submit_to_hub)(*what, settings)
    problem = hf_jobs.problem_of(plan.tasks)
    if only_print:
        print(plan.as_text(), end="")
    where = f"hf://buckets/{settings.results}/{what[1]} {what[1]}"
    lines = [f"all jobs are completed: hf buckets sync {where}"]
    quiet = only_print or report.quiet or problem is not None
    report.finish([task.to_json() for task in plan.tasks], [] if quiet else lines)
    if problem is not None:
        raise UserError(problem)
