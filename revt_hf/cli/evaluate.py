"""``revt evaluate``."""

from typing import Annotated

import typer

from revt_hf.cli.options import (
    BatchSize,
    DataSelection,
    Json,
    Models,
    ProtocolChoice,
    Quiet,
    Workers,
    named_models,
    with_options,
)


@with_options
def evaluate(
    models: Models,
    data: DataSelection,
    choice: ProtocolChoice,
    ensembles: Annotated[
        list[str] | None,
        typer.Option(
            "--ensemble",
            metavar="HOW",
            help="Also score all models together: logits, product, probabilities or features.",
        ),
    ] = None,
    head: Annotated[
        int, typer.Option(min=1, help="Model whose decode head an ensemble of features uses.")
    ] = 1,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Also measure parameters, FLOPs, images/s and GPU memory."),
    ] = False,
    batch_size: BatchSize = 1,
    workers: Workers = 0,
    classes: Annotated[
        str | None,
        typer.Option(help="Print the mean over synthia16 or synthia13 instead of all 19 classes."),
    ] = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Score models on domains, by the paper's test protocol or another one."""
    from revt_hf.core.outputs import check_output_file
    from revt_hf.core.processes import failing_together, process_state
    from revt_hf.evaluation.evaluate import EvaluateOptions
    from revt_hf.evaluation.evaluate import evaluate as score
    from revt_hf.evaluation.result import write_results
    from revt_hf.results.formats import print_scores
    from revt_hf.results.rows import check_subset

    check_subset(classes)
    named = named_models(models)
    splits = data.splits()
    read = [path for one in splits for path in one.spec.inputs]
    check_output_file(json_file, inputs=[*named.values(), data.recipe, *read])
    options = EvaluateOptions(tuple(ensembles or ()), head, cost, batch_size, workers, quiet)
    with failing_together(process_state()):
        protocol = choice.resolve(list(named.values()))
    results = score(named, splits, protocol, options)
    if not process_state().is_main_process:
        return
    if json_file is not None:
        write_results(json_file, results)
    print_scores(results, classes)


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to a panel of ``revt --help``."""
    app.command(rich_help_panel=panel)(evaluate)
