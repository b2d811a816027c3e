"""The models that an experiment's run left, with their results, as they are published."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from revt_hf.checkpoints.tensors import WEIGHTS_FILE
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.evaluation.result import Result, read_results
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.references import matching
from revt_hf.hub.commit import check_repo_id
from revt_hf.merging.record import MergeRecord, read_record
from revt_hf.models.recorded import recorded_recipe


@dataclass(frozen=True)
class RunModel:
    """A model of a run: its step's id, folder, place on the Hub, weights, and merge record."""

    id: str
    folder: Path
    repo_id: str
    sha256: str | None
    merge: MergeRecord | None

    @property
    def members(self) -> list[str | None]:
        """The sha256 of its members' weights; empty if it is no merge."""
        return [one.sha256 for one in self.merge.members] if self.merge else []


def run_models(run: Path, prefix: str) -> list[RunModel]:
    """The models that finished steps left, and averages of trainings that were merged."""
    folder = ExperimentFolder(run, {})
    if not folder.is_begun:
        raise UserError(f"{run} is no folder of an experiment: give the --output of revt run")
    found = folder.finished_models()
    merges = {one: read_record(run / one) for one in found if (run / one).is_dir()}
    wanted = {m.sha256 for r in merges.values() if isinstance(r, MergeRecord) for m in r.members}
    if wanted - {*found.values(), None}:
        for weights in sorted(run.glob(f"members/**/{WEIGHTS_FILE}")):
            own_id = weights.parent.relative_to(run).as_posix()
            digest = None if own_id in found else file_sha256(weights)
            if digest in wanted:
                found[own_id] = digest
    models = []
    for own_id, digest in found.items():
        kind, _, name = own_id.partition("/")
        name = name if kind in ("members", "merges") else f"{name}-{kind}"
        repo_id = f"{prefix}-{re.sub(r'[^A-Za-z0-9_.-]+|[.-]{2,}', '-', name)}"
        check_repo_id(repo_id, "model")
        record = merges.get(own_id)
        merge = record if isinstance(record, MergeRecord) else None
        models.append(RunModel(own_id, run / own_id, repo_id, digest, merge))
    return sorted(models, key=lambda one: one.merge is not None)


def chosen_models(models: Sequence[RunModel], only: Sequence[str], run: Path) -> list[RunModel]:
    """The models that patterns name; refuses those that are not as the run left them."""
    names = matching(only, [one.id for one in models], "--print") if only else None
    chosen = [one for one in models if names is None or one.id in names]
    if not chosen:
        raise UserError(f"{run} holds no finished model: run the experiment first")
    places: dict[str, str] = {}
    for one in chosen:
        other = places.setdefault(one.repo_id.lower(), one.id)
        if other != one.id or one.repo_id.lower().endswith("-results"):
            raise UserError(
                f"{one.id} would be published as {one.repo_id}, as is "
                f"{other if other != one.id else 'the table'}: choose others with --only"
            )
        if one.sha256 is None:
            raise UserError(
                f"{one.folder} is not as revt run left it: run the experiment again, or choose "
                "other models with --only"
            )
        _check_members(one, models)
    return chosen


def _check_members(merge: RunModel, models: Sequence[RunModel]) -> None:
    """Refuse a merge of weights that its members do not have any more."""
    known = {one.sha256 for one in models}
    for member in merge.merge.members if merge.merge else ():
        of_run = [one.id for one in models if f"/{member.path}/".endswith(f"/{one.id}/")]
        if member.sha256 not in known and of_run:
            raise UserError(
                f"{merge.id} was made of other weights than {of_run[0]} has now: run the "
                "experiment again, or choose other models with --only"
            )


def run_results(run: Path, given: Path | None) -> list[Result]:
    if given is not None:
        return read_results([given])
    folder = run / "results"
    protocols = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    if len(protocols) > 1:
        raise UserError(
            f"{folder} holds scores by several protocols ({', '.join(protocols)}): choose those "
            f"for the cards with --results {folder / protocols[0]}"
        )
    return read_results([folder]) if protocols else []


def results_of_model(model: RunModel, measured: Sequence[Result]) -> list[Result]:
    """The model's own results: a selection repeats those of the model that it chose."""
    own = [one for one in measured if one.kind != "selection"]
    named = [one for one in own if one.model == model.id]
    return named or [
        one for one in own if [held.sha256 for held in one.checkpoints] == [model.sha256]
    ]


def hub_origins(model: RunModel, linked: Sequence[RunModel], named: Sequence[str]) -> list[str]:
    """Of the Hub: the members of a merge among those named, or what a member started from."""
    if model.merge is not None:
        paths = {member.path.partition("@")[0] for member in model.merge.inputs}
        return [one for one in named if one in paths]
    recipe = recorded_recipe(model.folder)
    init = (recipe.model.init if recipe else None) or ""
    own = [one.repo_id for one in linked if f"/{init}/".endswith(f"/{one.id}/")]
    others = {m.path.partition("@")[0] for one in linked if one.merge for m in one.merge.members}
    return own or [one for one in named if one not in others]
