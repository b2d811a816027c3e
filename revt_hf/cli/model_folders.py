"""``revt merge``, ``inspect``, ``convert``, ``push``, and what changes a merge."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revt_hf.checkpoints.tensors import MERGE_FILE
from revt_hf.cli import options as common
from revt_hf.cli.merge import merge_command, split_names
from revt_hf.cli.options import Bounds
from revt_hf.core.errors import UserError, say
from revt_hf.core.outputs import check_apart, check_beside, check_output, check_output_file

if TYPE_CHECKING:
    from revt_hf.merging.changed_model import ValScore

EXIT_CHANGED = 2


@dataclass(frozen=True)
class SourceData(common.DataOptions):
    """Training images: of the sources of a recipe, or of one domain."""

    recipe: Annotated[Path | None, "Use the training images of this recipe's sources."] = None
    split: Annotated[str, "Training split of the domain."] = "train"
    val: Annotated[str, "Held-out split of the domain."] = "val"


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


def recalibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a model, such as a merge.")],
    output: Annotated[Path, "Folder of the recalibrated model."],
    data: SourceData,
    protocol: common.ProtocolOptions,
    report: common.OverwriteOptions,
    skip_val: Annotated[bool, "Do not score on source-val."] = False,
    images: Annotated[int, Bounds(1), "Approximate number of images."] = 100,
) -> None:
    """Re-estimate BatchNorm's statistics on source images."""
    from revt_hf.merging.recalibration import RecalibrateOptions
    from revt_hf.merging.recalibration import recalibrate as recalibrate_model

    sources = data.sources(data.split, data.val)
    read = [model, data.recipe, *(path for source in sources for path in source.inputs)]
    report.check(read, [output])
    options = RecalibrateOptions(images, not skip_val, report.overwrite, report.quiet)
    scores = recalibrate_model(model, output, sources, protocol.resolve([model]), options)
    _report_changed(report, output, scores, "recalibrated")


def refit(
    model: Annotated[Path, typer.Argument(help="Folder of a model, such as a merge.")],
    output: Annotated[Path, "Folder of the refit model."],
    recipe: Annotated[Path, "Train by this recipe: on its sources, with its settings."],
    report: common.OverwriteOptions,
    overrides: common.Overrides = None,
    steps: Annotated[int, Bounds(1, 10**7), "Number of optimizer steps."] = 200,
    fresh: Annotated[bool, "Start from a head of random weights, not from the model's."] = False,
    skip_val: Annotated[bool, "Do not score on source-val."] = False,
    resume: Annotated[bool, "Resume from the latest checkpoint."] = False,
) -> None:
    """Train only the decode head, on the frozen encoder."""
    from revt_hf.config.recipe import load_recipe

    if any(one.partition("=")[0].strip() == "train.steps" for one in overrides or []):
        raise UserError("--set train.steps: a refit takes its steps from --steps")
    loaded = load_recipe(recipe, overrides or [])
    read = [model, recipe, *loaded.inputs]
    report.check(read, [output])
    check_apart(output, read)
    from revt_hf.core.processes import process_state
    from revt_hf.merging.refit import RefitOptions
    from revt_hf.merging.refit import refit as refit_model

    how = RefitOptions(steps, fresh, not skip_val, resume, report.overwrite, report.quiet)
    scores = refit_model(model, output, loaded, how)
    if process_state().is_main_process:
        _report_changed(report, output, scores, "refit")


def _report_changed(
    report: common.OverwriteOptions, output: Path, scores: Sequence["ValScore"], done: str
) -> None:
    lines = [f"{s.label}: mIoU {s.before:.2f} before, {s.after:.2f} after" for s in scores]
    result = {"output": str(output), "val": [asdict(score) for score in scores]}
    report.finish(result, lines, f"{done}: {output}")


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
        from revt_hf.hub.facts import known_hub_ids
        from revt_hf.hub.space import check_with_space

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

    def send(self, folder: Path, repo_id: str, results: Path | None, **more: Any) -> None:
        from revt_hf.hub.commit import PushOptions
        from revt_hf.hub.push import push

        given = {key: value for key, value in vars(self).items() if value is not None}
        done = push(folder, repo_id, PushOptions(**given, **more), results)
        say(f"{'pushed' if self.dry_run is None else 'would be pushed'}: {done}")


def push(
    folder: Annotated[Path, typer.Argument(help="Model folder, such as a merge.")],
    repo_id: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.")],
    publication: Publication,
    results: Annotated[Path | None, "Scores for the card, from revt evaluate --json."] = None,
    members: Annotated[list[Path] | None, "--with-members DIR", "Also publish this member."] = None,
    overwrite: Annotated[bool, "Replace the folder of an earlier --dry-run."] = False,
    quiet: common.Quiet = False,
) -> None:
    """Publish a model in one commit, with a card of measured scores."""
    if overwrite and publication.dry_run is None:
        raise UserError(
            "--overwrite is for the folder of --dry-run DIR: a push brings a repository up to "
            "date without it"
        )
    more = {"with_members": members or (), "overwrite": overwrite, "quiet": quiet}
    publication.send(folder, repo_id, results, **more)


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
