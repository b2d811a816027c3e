"""``revt push`` and ``revt merge-and-push``: parse, validate, call."""

from pathlib import Path
from typing import Annotated, Any

import typer

from revt_hf.cli_data import Json, Overwrite, Quiet
from revt_hf.errors import UserError

Licence = Annotated[
    str | None, typer.Option(help="The weights' licence; of its start's, if that is stricter.")
]
Bases = Annotated[
    list[str] | None,
    typer.Option("--base-model", metavar="REPO_ID", help="A member or start that is on the Hub."),
]
Datasets = Annotated[
    list[str] | None,
    typer.Option("--dataset", metavar="REPO_ID", help="Training data that are on the Hub."),
]
Private = Annotated[bool, typer.Option("--private", help="For its owner alone.")]
CreatePr = Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")]
Revision = Annotated[str | None, typer.Option(help="A branch other than main.")]
DryRun = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write there what would be sent; send nothing.")
]


def push(
    folder: Annotated[Path, typer.Argument(help="A SegFormer folder, such as a merge.")],
    repo_id: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.")],
    results: Annotated[
        Path | None, typer.Option(help="Measured scores, of revt evaluate --json.")
    ] = None,
    licence: Licence = None,
    members: Annotated[
        list[Path] | None, typer.Option("--with-members", help="A member that goes along.")
    ] = None,
    base_models: Bases = None,
    datasets: Datasets = None,
    private: Private = False,
    create_pr: CreatePr = False,
    revision: Revision = None,
    dry_run: DryRun = None,
    quiet: Quiet = False,
) -> None:
    """Publish a model in one commit, with a card of what was measured."""
    from revt_hf.publishing.push import push_command

    print(
        push_command(
            folder,
            repo_id,
            results,
            licence,
            members or [],
            base_models or [],
            datasets or [],
            private,
            create_pr,
            revision,
            dry_run,
            quiet,
        )
    )


def merge_and_push(
    models: Annotated[list[str], typer.Argument(help="Members, then OWNER/NAME on the Hub.")],
    output: Annotated[Path, typer.Option(help="The folder of the merged SegFormer.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Score on its source-val and targets, for the card.")
    ] = None,
    licence: Licence = None,
    base_models: Bases = None,
    datasets: Datasets = None,
    private: Private = False,
    create_pr: CreatePr = False,
    revision: Revision = None,
    dry_run: DryRun = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Average encoders, score the ReVT, publish it with a card of what was measured."""
    from revt_hf.files import write_json
    from revt_hf.merging.average import MergeOptions, merge
    from revt_hf.publishing.hub import check_repo_id, require_token
    from revt_hf.publishing.push import push_command

    *members, repo_id = models
    if len(members) < 2:
        raise UserError("give at least two members, then the repository: A B C OWNER/NAME")
    # All that a push would refuse at the end of the work is refused now.
    check_repo_id(repo_id, "model")
    if not licence:
        raise UserError("name the licence of the weights: --licence apache-2.0, or their start's")
    if dry_run is None:
        require_token()
    done = merge(members, output, options=MergeOptions(overwrite, quiet=quiet))
    results = None
    if recipe is not None:
        results = done.with_name(f"{done.name}.results.json")
        write_json(results, _scores(str(done), recipe, quiet))
        if json_file is not None:
            json_file.write_bytes(results.read_bytes())
    print(
        push_command(
            done,
            repo_id,
            results,
            licence,
            [],
            base_models or [],
            datasets or [],
            private,
            create_pr,
            revision,
            dry_run,
            quiet,
        )
    )


def _scores(model: str, recipe: Path, quiet: bool) -> list[dict[str, Any]]:
    from revt_hf.evaluation.command import EvaluateOptions, evaluate_command, recipe_splits
    from revt_hf.reporting.results import print_scores

    rows = evaluate_command([model], recipe_splits(recipe), EvaluateOptions(quiet=quiet))
    print_scores(rows)
    return [row.to_json() for row in rows]


def register(app: typer.Typer) -> None:
    """Add the commands to ``revt``."""
    app.command()(push)
    app.command("merge-and-push")(merge_and_push)
