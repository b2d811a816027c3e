"""What ``revt run`` does."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from revt_hf.core.errors import UserError, counted
from revt_hf.core.outputs import write_json
from revt_hf.experiments.folder import check_folder
from revt_hf.experiments.ledger import Ledger
from revt_hf.experiments.plan import plan_json, plan_tree
from revt_hf.experiments.recipe import load_experiment
from revt_hf.experiments.runner import HowToRun, Outcome, chosen_steps, run_steps
from revt_hf.experiments.steps import build_graph


def run_command(
    file: Path,
    output: Path,
    overrides: Sequence[str],
    how: HowToRun,
    dry_run: bool,
    json_file: Path | None,
    report_only: bool = False,
) -> None:
    """Plan or carry out an experiment; then its table and report.

    Args:
        file: the experiment.
        output: its folder.
        overrides: ``a.b=c`` strings.
        how: which steps, and how.
        dry_run: only print the plan.
        json_file: gets the steps and their states.
        report_only: do no step, only write table and report of what is done. With only some
            steps chosen they are not written: such runs may go on side by side.

    Raises:
        UserError: the experiment is not valid, or steps failed (the others are done).
    """
    experiment = load_experiment(file, overrides)
    graph = build_graph(experiment)
    if report_only and how.only:
        raise UserError("--report-only does no step: leave --only out")
    steps = chosen_steps(graph, how)
    if dry_run:
        Console().print(plan_tree(experiment.title, graph, steps, output))
        if json_file is not None:
            write_json(json_file, plan_json(graph, steps, output))
        return
    check_folder(graph, output)
    outcome = Outcome() if report_only else run_steps(graph, output, how)
    if json_file is not None:
        write_json(json_file, plan_json(graph, steps, output))
    if not how.only:
        from revt_hf.experiments.outputs import write_outputs

        written = write_outputs(graph, Ledger(graph, output), output, file.stem, how.quiet)
        if not how.quiet:
            print("\n".join(f"written: {path}" for path in written))
    problem = outcome.problem()
    if problem is not None:
        raise UserError(problem)
    if not how.quiet and not report_only:
        print(f"{counted(len(outcome.done), 'step')} done, {len(outcome.kept)} were: {output}")
