"""``revt push`` and ``revt merge-and-push``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from revt_hf.cli.naming import split_name
from revt_hf.cli.options import OutputOptions, OverwriteOptions, Quiet, with_options
from revt_hf.core.errors import UserError, say
from revt_hf.core.outputs import check_beside, check_output, check_output_file


@dataclass(frozen=True)
class Publication:
    """Where and how a model is published."""

    license: Annotated[
        str | None, "License of the weights, or the base model's license, whichever is stricter."
    ] = None
    base_models: Annotated[
        list[str] | None,
        typer.Option(
            "--base-model", metavar="REPO_ID", help="Hub ID of a member or of the initial weights."
        ),
    ] = None
    datasets: Annotated[
        list[str] | None,
        typer.Option("--dataset", metavar="REPO_ID", help="Hub ID of a training dataset."),
    ] = None
    private: Annotated[bool, "Make the repository private."] = False
    create_pr: Annotated[bool, "Open a pull request instead of pushing."] = False
    revision: Annotated[str | None, "Push to this branch, not to main."] = None
    dry_run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write what would be sent to this folder; send nothing."),
    ] = None

    def check(self, repo_id: str) -> None:
        """Refuse now what the push would refuse after all the work."""
        from revt_hf.hub.commit import check_repo_id, require_token
        from revt_hf.hub.facts import known_hub_ids

        check_repo_id(repo_id, "model")
        if not self.license:
            raise UserError(
                "name the license of the weights: --license apache-2.0, or the base model's"
            )
        if self.dry_run is None:
            require_token()
        known_hub_ids(self.base_models or [], None)
        for name in self.datasets or []:
            check_repo_id(name, "dataset")

    def send(self, folder: Path, repo_id: str, results: Path | None, **more: Any) -> None:
        """Push a folder, and print where it is."""
        from revt_hf.hub.commit import PushOptions
        from revt_hf.hub.push import push

        given = {key: value for key, value in vars(self).items() if value is not None}
        done = push(folder, repo_id, PushOptions(**given, **more), results)
        say(f"{'pushed' if self.dry_run is None else 'would be pushed'}: {done}")


@with_options
def push(
    folder: Annotated[Path, typer.Argument(help="Model folder, such as a merge.")],
    repo_id: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.")],
    publication: Publication,
    results: Annotated[Path | None, "Scores for the card, from revt evaluate --json."] = None,
    members: Annotated[
        list[Path] | None,
        typer.Option("--with-members", metavar="DIR", help="Also publish this member."),
    ] = None,
    overwrite: Annotated[bool, "Replace the folder of an earlier --dry-run."] = False,
    quiet: Quiet = False,
) -> None:
    """Publish a model in one commit, with a card of measured scores."""
    if overwrite and publication.dry_run is None:
        raise UserError(
            "--overwrite is for the folder of --dry-run DIR: a push brings a repository up to "
            "date without it"
        )
    more = {"with_members": members or (), "overwrite": overwrite, "quiet": quiet}
    publication.send(folder, repo_id, results, **more)


@with_options
def merge_and_push(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL... OWNER/NAME", help="Members, then the Hub ID.")
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the merged model.")],
    publication: Publication,
    report: OverwriteOptions,
    recipe: Annotated[
        Path | None, "Score on the source-val and target splits of this recipe."
    ] = None,
) -> None:
    """Average encoders, score the merge, and publish it with a card of these scores."""
    from revt_hf.config.recipe import load_recipe
    from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
    from revt_hf.evaluation.result import splits_of, write_results
    from revt_hf.merging.average import MergeOptions, merge
    from revt_hf.merging.registry import MergeSpec
    from revt_hf.results.formats import print_scores

    *members, repo_id = models
    if len(members) < 2:
        raise UserError("give at least two members, then the repository: A B C OWNER/NAME")
    names, paths = zip(*map(split_name, members), strict=True)
    # Refuse one more member where the repository was forgotten.
    last = Path(repo_id)
    beside = any(Path(one).exists() and Path(one).parent == last.parent for one in paths)
    if last.exists() or (beside and last.parent != Path()):
        raise UserError(
            f"{repo_id} lies beside the members and is not a repository on the Hub: give the "
            "members, then OWNER/NAME"
        )
    publication.check(repo_id)
    if report.json_file is not None and recipe is None:
        raise UserError("--json writes scores: name a recipe to score on with --recipe FILE")
    splits = None if recipe is None else splits_of(load_recipe(recipe))
    inputs: list[str | Path | None] = [*paths, recipe]
    inputs += [path for one in splits or [] for path in one.spec.inputs]
    results = None if splits is None else output.parent / f"{output.name}.results.json"
    overwrite, quiet = report.overwrite, report.quiet
    check_output(output, overwrite, inputs)
    check_output_file(results, overwrite, inputs)
    report.check(inputs, [output, results])
    if publication.dry_run is not None:
        check_output(publication.dry_run, overwrite, inputs)
        check_beside(publication.dry_run, [output, results, report.json_file])
    spec = MergeSpec(paths, names=names)
    done = merge(spec, output, options=MergeOptions(overwrite, quiet=quiet))
    if splits is not None:
        scores = evaluate([done], splits, options=EvaluateOptions(quiet=quiet))
        for target in (OutputOptions(results), report):
            target.finish(scores, write=write_results)
        print_scores(scores)
    publication.send(done, repo_id, results, overwrite=overwrite, quiet=quiet)
