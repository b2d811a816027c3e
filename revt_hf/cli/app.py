"""All commands of ``revt``: parse, validate, call. Heavy imports stay inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli import (
    analysis,
    benchmark,
    curves,
    demo,
    evaluate,
    experiments,
    model_folders,
    predict,
    push,
    results,
    train,
)
from revt_hf.cli.data import Json, Overwrite, Quiet, data_app
from revt_hf.cli.evaluate import Bound
from revt_hf.core.errors import say

app = typer.Typer(
    help="ReVT: fine-tune SegFormers, average their encoders, evaluate on unseen domains.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
benchmark.register(app)
curves.register(app)
analysis.register(app)
demo.register(app)
evaluate.register(app)
experiments.register(app)
model_folders.register(app)
predict.register(app)
push.register(app)
results.register(app)
train.register(app)


@app.command()
def report(
    output: Annotated[Path, typer.Option(help="The page (HTML).")],
    recipe: Annotated[Path, typer.Option(help="Its source-val and all its targets.")],
    members: Annotated[list[Path], typer.Option("--member", help="A member's folder.")],
    revts: Annotated[list[Path], typer.Option("--revt", help="A merge; the first leads.")],
    start: Annotated[Path | None, typer.Option(help="What the members started from.")] = None,
    max_size: Bound = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compare members and their merges on one page, with images."""
    from revt_hf.core.outputs import check_output_file
    from revt_hf.evaluation.result import write_results
    from revt_hf.results.command import report_command

    inputs = [recipe, *members, *revts, start]
    check_output_file(output, overwrite, inputs, [json_file])
    check_output_file(json_file, inputs=inputs)
    results = report_command(output, recipe, members, revts, start, max_size, quiet, overwrite)
    if json_file is not None:
        write_results(json_file, results)
    say(f"open {output}")
