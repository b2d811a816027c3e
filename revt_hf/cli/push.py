"""``revt push`` and ``revt merge-and-push``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revt_hf.cli.naming import split_name
from revt_hf.cli.options import OverwritingReport, Quiet, Report, with_options
from revt_hf.core.errors import UserError, say
from revt_hf.core.outputs import check_beside, check_output, check_output_file

if TYPE_CHECKING:
    from revt_hf.hub.push import PushOptions


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

    def options(
        self, overwrite: bool, quiet: bool, members: Sequence[Path] | None = None
    ) -> "PushOptions":
        """The options of a push."""
        from revt_hf.hub.push import PushOptions

        lists = {"base_models": self.base_models, "datasets": self.datasets}
        given = asdict(self) | {name: tuple(ids or ()) for name, ids in lists.items()}
        members = tuple(members or ())
        return PushOptions(**given, overwrite=overwrite, with_members=members, quiet=quiet)


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
    _push(folder, repo_id, publication.options(overwrite, quiet, members), results)


@with_options
def merge_and_push(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL... OWNER/NAME", help="Members, then the Hub ID.")
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the merged model.")],
    publication: Publication,
    report: OverwritingReport,
    recipe: Annotated[
        Path | None, "Score on the source-val and target splits of this recipe."
    ] = None,
) -> None:
    """Average encoders, score the merge, and publish it with a card of these scores."""
    from revt_hf.config.recipe import load_recipe
    from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
    from revt_hf.evaluation.result import write_results
    from revt_hf.evaluation.splits import splits_of
    from revt_hf.hub.commit import check_repo_id, require_token
    from revt_hf.hub.records import known_hub_ids
    from revt_hf.merging.average import MergeOptions, merge
    from revt_hf.merging.merge_spec import MergeSpec
    from revt_hf.models.recorded import recorded_protocol
    from revt_hf.results.formats import print_scores

    *members, repo_id = models
    if len(members) < 2:
        raise UserError("give at least two members, then the repository: A B C OWNER/NAME")
    names, paths = zip(*map(split_name, members), strict=True)
    _check_no_member(repo_id, paths)
    # Refuse now whatever the push would refuse after all the work.
    check_repo_id(repo_id, "model")
    if report.json_file is not None and recipe is None:
        raise UserError("--json writes scores: name a recipe to score on with --recipe FILE")
    if not publication.license:
        raise UserError(
            "name the license of the weights: --license apache-2.0, or the base model's"
        )
    if publication.dry_run is None:
        require_token()
    known_hub_ids(publication.base_models or [], None)
    for name in publication.datasets or []:
        check_repo_id(name, "dataset")
    splits = None if recipe is None else splits_of(load_recipe(recipe))
    inputs: list[str | Path | None] = [*paths, recipe]
    inputs += [path for one in splits or [] for path in one.spec.inputs]
    results = None if splits is None else output.parent / f"{output.name}.results.json"
    overwrite, quiet, dry_run = report.overwrite, report.quiet, publication.dry_run
    check_output(output, overwrite, inputs)
    check_output_file(results, overwrite, inputs)
    report.check(inputs, [output, results])
    if dry_run is not None:
        check_output(dry_run, overwrite, inputs)
        check_beside(dry_run, [output, results, report.json_file])
    spec = MergeSpec(members=paths, names=names)
    done = merge(spec, output, options=MergeOptions(overwrite, quiet=quiet))
    if splits is not None:
        scores = evaluate(
            {str(done): done}, splits, recorded_protocol([done]), EvaluateOptions(quiet=quiet)
        )
        for target in (Report(results), report):
            target.finish(scores, write=write_results)
        print_scores(scores)
    _push(done, repo_id, publication.options(overwrite, quiet), results)


def _push(folder: Path, repo_id: str, options: "PushOptions", results: Path | None) -> None:
    from revt_hf.hub.push import push

    done = push(folder, repo_id, options, results)
    say(f"{'pushed' if options.dry_run is None else 'would be pushed'}: {done}")


def _check_no_member(repo_id: str, members: Sequence[str]) -> None:
    """Refuse one more member where the repository was forgotten."""
    path = Path(repo_id)
    beside = any(Path(member).exists() and Path(member).parent == path.parent for member in members)
    if path.exists() or (beside and path.parent != Path()):
        raise UserError(
            f"{repo_id} lies beside the members and is not a repository on the Hub: give the "
            "members, then OWNER/NAME"
        )
