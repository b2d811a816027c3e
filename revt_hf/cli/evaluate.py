"""``revt evaluate``: parse, validate, call."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.data import Config, DataDir, Json, Options, Quiet
from revt_hf.cli.options import ProtocolChoice, named_models

Members = Annotated[list[str], typer.Argument(help="SegFormer folders or Hub ids.")]
ProtocolName = Annotated[
    str | None,
    typer.Option(help="published, native, slide or multi-scale; default: what the models name."),
]
Images = Annotated[
    int | None, typer.Option(min=1, help="Of each split at most so many, spread over it.")
]
Workers = Annotated[
    int,
    typer.Option(
        min=0, max=256, help="Processes that decode images while the networks run; 0: in between."
    ),
]
Bound = Annotated[
    str | None,
    typer.Option(help="Max size WIDTHxHEIGHT, or native; default: what the models name."),
]


def evaluate(
    models: Members,
    domain: Annotated[str | None, typer.Option(help="A domain, such as folder.")] = None,
    data_dir: DataDir = None,
    split: Annotated[str, typer.Option(help="The domain's split.")] = "val",
    config: Config = None,
    options: Options = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Instead of a domain: this recipe's source-val and all its targets."),
    ] = None,
    protocol: ProtocolName = None,
    max_size: Bound = None,
    ensembles: Annotated[
        list[str] | None,
        typer.Option(
            "--ensemble",
            metavar="HOW",
            help="Also score all models together: logits, product, probabilities or features.",
        ),
    ] = None,
    head: Annotated[
        int, typer.Option(min=1, help="Which model's decode head an ensemble of features uses.")
    ] = 1,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Also parameters, FLOPs, images/s and memory of each."),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images that go through a network together.")
    ] = 1,
    workers: Workers = 0,
    classes: Annotated[
        str | None,
        typer.Option(help="Print the mean over synthia16 or synthia13, not over all 19."),
    ] = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Score models on a domain by the original's test protocol, or another one."""
    from revt_hf.core.outputs import check_output_file
    from revt_hf.core.processes import failing_together, process_state
    from revt_hf.evaluation.command import requested_splits
    from revt_hf.evaluation.cost import print_costs
    from revt_hf.evaluation.evaluate import EvaluateOptions
    from revt_hf.evaluation.evaluate import evaluate as run_evaluation
    from revt_hf.evaluation.result import write_results
    from revt_hf.results.results import print_scores
    from revt_hf.results.rows import check_subset

    check_subset(classes)
    named = named_models(models)
    splits = requested_splits(recipe, domain, data_dir, config, split, options or [])
    read = [path for one in splits for path in one.spec.inputs]
    check_output_file(json_file, inputs=[*named.values(), recipe, *read])
    settings = EvaluateOptions(
        ensembles=tuple(ensembles or ()),
        head=head,
        cost=cost,
        batch_size=batch_size,
        workers=workers,
        quiet=quiet,
    )
    with failing_together(process_state()):
        chosen = ProtocolChoice(protocol, max_size).resolve(list(named.values()))
    results = run_evaluation(named, splits, chosen, settings)
    if not process_state().is_main_process:
        return
    if json_file is not None:
        write_results(json_file, results)
    print_scores(results, classes)
    if cost:
        print_costs({one.model: one.cost for one in results if one.cost is not None})


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to a panel of ``revt --help``."""
    app.command(rich_help_panel=panel)(evaluate)
