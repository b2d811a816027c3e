"""``revt merge``, ``inspect``, ``convert`` and ``push``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revt_hf.checkpoints.tensors import MERGE_FILE
from revt_hf.cli import options as common
from revt_hf.cli.merge import merge_command, split_names
from revt_hf.core.errors import UserError, counted, say
from revt_hf.core.outputs import check_beside, check_output, check_output_file

if TYPE_CHECKING:
    from revt_hf.hub.commit import PushOptions

EXIT_CHANGED = 2


def merge(context: typer.Context) -> None:
    """Average the encoders of several models; keep one decode head."""
    merge_command(context.args)


def inspect(
    folder: Annotated[Path, typer.Argument(help="Folder of a model with such a record.")],
    json_file: common.Json = None,
) -> None:
    """Print how a merge was made, and whether its members and weights are still the same."""
    from revt_hf.merging import record as records
    from revt_hf.merging.member_states import member_states

    report = common.OutputOptions(json_file)
    report.check([folder])
    record = records.read_record(folder) or records.read_merge_record(folder / MERGE_FILE)
    own = {True: "same", False: "changed", None: "unknown"}[records.describes(record, folder)]
    members, lines = [], []
    if isinstance(record, records.MergeRecord):
        members = list(zip(record.inputs, member_states(record), strict=True))
        lines = [*map(str, record.rules)]
        lines.append(f"all else from member {record.head}; revt_hf {record.revt_hf}")
    lines += map(str, record.changes)
    base = record.base if isinstance(record, records.MergeRecord) else None
    for member, state in members:
        mark = " (the base)" if member is base else ""
        lines += [f"{state:8} {member}{mark}", *(f"{'':8} {line}" for line in member.history())]
    lines.append(f"{own:8} {folder} (the weights that {record.file} describes)")
    rows = [{"path": member.path, "state": state} for member, state in members]
    report.finish({**record.to_json(), "states": rows, "weights": own}, lines)
    if {own, *(state for _, state in members)} & {"changed", "gone"}:
        raise typer.Exit(EXIT_CHANGED)


def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint of the original, or a folder.")],
    output: Annotated[Path, "Output folder, or the output file with --to mmseg."],
    to: Annotated[str | None, "Format: transformers (default) or mmseg, the original's."] = None,
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,
) -> None:
    """Convert checkpoints of the original to SegFormer folders, and back."""
    from revt_hf.models import convert as conversion

    if to == "mmseg":
        done = conversion.convert_to_mmseg(source, output, overwrite, quiet)
    elif to in (None, "transformers"):
        done = conversion.convert(Path(source), output, overwrite)
    else:
        raise UserError(f"--to {to}: choose transformers or mmseg")
    size = f"SegFormer-{done.size.upper()}" if done.size else "a SegFormer"
    classes = f"{len(done.labels)} classes" if done.labels else "encoder alone"
    lines = [f"converted {size}, {classes}: {done.output}"]
    lines += [f"left out: {', '.join(done.dropped)}"] if done.dropped else []
    lines += [f"missing, 0 is used: {', '.join(done.added)}"] if done.added else []
    for line in [] if quiet else lines:
        say(line)


@dataclass(frozen=True)
class Publication:
    """Where and how a model is published."""

    license: Annotated[
        str | None, "License of the weights, or the base model's license, whichever is stricter."
    ] = None
    base_models: Annotated[
        list[str] | None, "--base-model REPO_ID", "Hub ID of a member or of the initial weights."
    ] = None
    datasets: Annotated[list[str] | None, "--dataset REPO_ID", "Hub ID of a training dataset."] = (
        None
    )
    dataset_ids: Annotated[
        list[str] | None,
        "--dataset-id DOMAIN=REPO_ID[:TASK]",
        "Hub ID of a domain, and its task if that is a benchmark: for .eval_results and the card.",
    ] = None
    collection: Annotated[
        str | None, "TITLE|SLUG", "Add to this collection, which is made if it is a new title."
    ] = None
    private: Annotated[bool, "Make the repository private."] = False
    create_pr: Annotated[bool, "Open a pull request instead of pushing."] = False
    revision: Annotated[str | None, "Push to this branch, not to main."] = None
    with_space: Annotated[bool, "Also publish a Space that shows the model."] = False
    dry_run: Annotated[
        Path | None, "DIR", "Write what would be sent to this folder; send nothing."
    ] = None

    def check(self, repo_id: str) -> None:
        """Refuse now what the push would refuse after all the work."""
        from revt_hf.hub.commit import check_repo_id, require_token
        from revt_hf.hub.evaluations import parse_dataset_ids
        from revt_hf.hub.facts import known_hub_ids
        from revt_hf.hub.space import check_with_space

        parse_dataset_ids(self.dataset_ids or [])
        check_with_space(self)
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

    def options(self, **more: Any) -> "PushOptions":
        from revt_hf.hub.commit import PushOptions
        from revt_hf.hub.evaluations import parse_dataset_ids

        given = {key: value for key, value in vars(self).items() if value is not None}
        given["dataset_ids"] = parse_dataset_ids(self.dataset_ids or [])
        return PushOptions(**given, **more)

    def send(self, folder: Path, repo_id: str, results: Path | None, **more: Any) -> None:
        from revt_hf.hub.push import push

        done = push(folder, repo_id, self.options(**more), results)
        say(f"{'pushed' if self.dry_run is None else 'would be pushed'}: {done}")

    def send_experiment(
        self,
        run: Path,
        prefix: str,
        results: Path | None,
        only: list[str],
        only_print: bool,
        **more: Any,
    ) -> None:
        from revt_hf.experiments.publication import push_experiment

        if self.create_pr or self.revision is not None or self.with_space:
            raise UserError(
                "--create-pr, --revision and --with-space are for one model: leave out --experiment"
            )
        how = (results, only, only_print)
        repositories, urls = push_experiment(run, prefix, self.options(**more), *how)
        for one in repositories if not urls else ():
            files = counted(one.files, "file")
            say(f"{one.repo_id} ({one.content}): {files}, {one.size / 2**20:,.1f} MiB")
        size = sum(one.size for one in repositories) / 2**20
        total = f"{counted(len(repositories), 'repo')}, {size:,.1f} MiB"
        for url in urls:
            say(f"pushed: {url}")
        if not urls:
            say(f"would be pushed: {total}")


def push(
    folder: Annotated[Path, typer.Argument(help="Model folder; not with --experiment.")],
    publication: Publication,
    repo_id: Annotated[
        str | None, typer.Argument(help="OWNER/NAME on the Hub; with --experiment OWNER/PREFIX.")
    ] = None,
    results: Annotated[Path | None, "Scores for the card, from revt evaluate --json."] = None,
    members: Annotated[list[Path] | None, "--with-members DIR", "Also publish this member."] = None,
    experiment: Annotated[
        Path | None, "RUN", "Publish all models of this folder of revt run, with their table."
    ] = None,
    only: Annotated[
        list[str] | None, "STEPS", "With --experiment: only these models, such as 'merges/*'."
    ] = None,
    only_print: Annotated[
        bool, "--print", "With --experiment: show what would be pushed; send nothing."
    ] = False,
    overwrite: Annotated[bool, "Replace the folder of an earlier --dry-run."] = False,
    quiet: common.Quiet = False,
) -> None:
    """Publish a model in one commit, with a card of measured scores, or a whole experiment."""
    if overwrite and publication.dry_run is None:
        raise UserError(
            "--overwrite is for the folder of --dry-run DIR: a push brings a repository up to "
            "date without it"
        )
    more = {"overwrite": overwrite, "quiet": quiet}
    if experiment is not None:
        if repo_id is not None or members:
            raise UserError(
                "--experiment RUN goes with OWNER/PREFIX alone: it publishes the members"
            )
        publication.send_experiment(
            experiment, str(folder), results, only or [], only_print, **more
        )
        return
    if repo_id is None:
        raise UserError("name the folder, then the repository: revt push FOLDER OWNER/NAME")
    if only or only_print:
        raise UserError("--only and --print go with --experiment; --dry-run DIR is for one model")
    publication.send(folder, repo_id, results, with_members=members or (), **more)


def merge_and_push(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL... OWNER/NAME", help="Members, then the Hub ID.")
    ],
    output: Annotated[Path, "DIR", "Folder for the merged model."],
    publication: Publication,
    report: common.OverwriteOptions,
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
    names, paths = zip(*split_names(members), strict=True)
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
        for target in (common.OutputOptions(results), report):
            target.finish(scores, write=write_results)
        print_scores(scores)
    publication.send(done, repo_id, results, overwrite=overwrite, quiet=quiet)
