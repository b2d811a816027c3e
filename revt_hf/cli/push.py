"""``revt push`` and ``revt merge-and-push``: parse, validate, call."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.data import Json, Overwrite, Quiet
from revt_hf.core.errors import UserError

License = Annotated[
    str | None, typer.Option(help="The weights' license; of its start's, if that is stricter.")
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
    license: License = None,
    members: Annotated[
        list[Path] | None, typer.Option("--with-members", help="A member that goes along.")
    ] = None,
    base_models: Bases = None,
    datasets: Datasets = None,
    private: Private = False,
    create_pr: CreatePr = False,
    revision: Revision = None,
    dry_run: DryRun = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier --dry-run left in DIR.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Publish a model in one commit, with a card of what was measured."""
    if overwrite and dry_run is None:
        raise UserError(
            "--overwrite is for the folder of --dry-run DIR: a push brings a repository up to "
            "date without it"
        )
    from revt_hf.hub.push import push_command

    print(
        push_command(
            folder,
            repo_id,
            results,
            license,
            members or [],
            base_models or [],
            datasets or [],
            private,
            create_pr,
            revision,
            dry_run,
            quiet,
            overwrite,
        )
    )


def merge_and_push(
    models: Annotated[list[str], typer.Argument(help="Members, then OWNER/NAME on the Hub.")],
    output: Annotated[Path, typer.Option(help="The folder of the merged SegFormer.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Score on its source-val and targets, for the card.")
    ] = None,
    license: License = None,
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
    *members, repo_id = models
    if len(members) < 2:
        raise UserError("give at least two members, then the repository: A B C OWNER/NAME")
    _check_no_member(repo_id, members)
    from revt_hf.evaluation.command import recipe_splits
    from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
    from revt_hf.evaluation.result import write_results
    from revt_hf.hub.commit import check_repo_id, require_token
    from revt_hf.hub.push import push_command
    from revt_hf.hub.records import known_hub_ids
    from revt_hf.merging.average import MergeOptions, merge
    from revt_hf.models.recorded import recorded_protocol
    from revt_hf.results.results import print_scores

    # All that a push would refuse at the end of the work is refused now.
    check_repo_id(repo_id, "model")
    if json_file is not None and recipe is None:
        raise UserError("--json gets the scores: say on what with --recipe FILE")
    if not license:
        raise UserError("name the license of the weights: --license apache-2.0, or their start's")
    if dry_run is None:
        require_token()
    known_hub_ids(base_models or [], None)
    for name in datasets or []:
        check_repo_id(name, "dataset")
    splits = None if recipe is None else recipe_splits(recipe)
    inputs: list[str | Path | None] = [*members, recipe]
    inputs += [path for one in splits or [] for path in one.spec.inputs]
    results = None if splits is None else output.parent / f"{output.name}.results.json"
    _check_outputs(output, results, json_file, dry_run, overwrite, inputs)
    done = merge(members, output, options=MergeOptions(overwrite, quiet=quiet))
    if splits is not None:
        scores = evaluate(
            {str(done): done}, splits, recorded_protocol([done]), EvaluateOptions(quiet=quiet)
        )
        for file in (results, json_file):
            if file is not None:
                write_results(file, scores)
        print_scores(scores)
    print(
        push_command(
            done,
            repo_id,
            results,
            license,
            [],
            base_models or [],
            datasets or [],
            private,
            create_pr,
            revision,
            dry_run,
            quiet,
            overwrite,
        )
    )


def _check_no_member(repo_id: str, members: list[str]) -> None:
    """Refuse a last argument that looks like one more member, whose repository was forgotten."""
    place = Path(repo_id)
    beside = any(
        Path(member).exists() and Path(member).parent == place.parent for member in members
    )
    if place.exists() or (beside and place.parent != Path()):
        raise UserError(
            f"{repo_id} is where the members are, not a repository on the Hub: give the members, "
            "then OWNER/NAME"
        )


def _check_outputs(
    output: Path,
    results: Path | None,
    json_file: Path | None,
    dry_run: Path | None,
    overwrite: bool,
    inputs: list[str | Path | None],
) -> None:
    """Refuse whatever is in the way of an output, before the work."""
    from revt_hf.core.outputs import check_beside, check_output, check_output_file

    check_output(output, overwrite, inputs)
    check_output_file(results, overwrite, inputs)
    check_output_file(json_file, inputs=inputs, outputs=[output, results])
    if dry_run is not None:
        check_output(dry_run, overwrite, inputs)
        check_beside(dry_run, [output, results, json_file])


def register(app: typer.Typer) -> None:
    """Add the commands to ``revt``."""
    app.command()(push)
    app.command("merge-and-push")(merge_and_push)
