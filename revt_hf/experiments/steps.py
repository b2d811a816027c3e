"""The steps of an experiment: trainings, checkpoints and merges, their scores, selections."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from revt_hf.checkpoints.tensors import RECIPE_FILE, WEIGHTS_FILE
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec, Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import write_json
from revt_hf.evaluation.result import (
    Kind,
    PaperKey,
    Result,
    Selected,
    SplitSpec,
    read_results,
    write_results,
)
from revt_hf.experiments.experiment_folder import ExperimentFolder, Status, Step, hash_of
from revt_hf.experiments.experiment_recipe import Evaluate
from revt_hf.experiments.training_processes import TrainingJob
from revt_hf.merging.registry import MergeSpec, Rule
from revt_hf.models.recorded import recorded_recipe
from revt_hf.training.run_folder import newest_checkpoint, training_folder

# Weights held at a time; a single network may exceed it.
_MOST_BYTES = 3 * 2**30
# An interruption loses no more scores than these.
_MOST_NETWORKS = 12


def changed(section: BaseModel) -> dict[str, Any]:
    """The values that are not the defaults."""
    return section.model_dump(mode="json", exclude_defaults=True)


@dataclass(frozen=True)
class Given(Step):
    """Weights that need no work: a folder or Hub ID, or an average that a training (input) kept."""

    path: str

    def model(self, folder: ExperimentFolder) -> str:
        return (
            str(Path(*map(folder.model_of, self.inputs), self.path)) if self.inputs else self.path
        )

    def fingerprint(self, folder: ExperimentFolder) -> str:
        return folder.checkpoint_hash(self.model(folder))

    def status(self, folder: ExperimentFolder) -> Status:
        for training in self.inputs:
            if not folder.done(training):
                return Status("missing")
            if not self.output(folder).is_file():
                return Status("missing", f"{training} left no {self.path}/")
            return Status("done")
        try:
            self.fingerprint(folder)
        except UserError as error:
            return Status("missing", str(error))
        return Status("done")


@dataclass(frozen=True)
class Train(Step):
    """Train a member (:meth:`job`); its input, if any, is the member of the initial weights."""

    recipe: Recipe
    stage = "train"

    def settings(self) -> dict[str, Any]:
        return {"recipe": changed(self.recipe)}

    def images(self) -> list[tuple[DomainSpec, str]]:
        sources = self.recipe.sources
        held_out = sources if self.recipe.train.validate_every else ()
        return [*((one, one.train) for one in sources), *((one, one.val) for one in held_out)]

    def checkpoint(self) -> str | None:
        return self.recipe.model.init

    def status(self, folder: ExperimentFolder) -> Status:
        status = folder.recorded_status(self)
        own = self.run_folder(folder)
        trained = training_folder(own)
        begun = newest_checkpoint(trained)
        # Beside an older result lies the run that is to replace it.
        if status.state != "done" and begun and (status.state != "stale" or trained != own):
            note = status.note or f"step {begun[1]} of {self.count}"
            return Status("begun", note)
        return status

    @property
    def count(self) -> int:
        return self.recipe.train.steps

    def run_folder(self, folder: ExperimentFolder) -> Path:
        return Path(self.model(folder))

    def job(self, folder: ExperimentFolder) -> TrainingJob:
        """The process that trains it; it resumes a run that was begun with the same recipe."""
        recipe, own = self.recipe, Path(self.model(folder))
        for member in self.inputs:
            model = recipe.model.model_dump(exclude_none=True) | {"init": folder.model_of(member)}
            recipe = Recipe.model_validate({**recipe.model_dump(), "model": model})
        trained = training_folder(own)
        begun = (trained / RECIPE_FILE).is_file() and recorded_recipe(trained) == recipe
        resume = begun and folder.status(self.id).state == "begun"
        return TrainingJob(self.id, recipe, own, resume)


@dataclass(frozen=True)
class MergeStep(Step):
    """Merge members (inputs); what no rule selects comes from member ``head``, counted from 1."""

    members: tuple[str, ...]
    rules: tuple[Rule, ...]
    head: int
    base: str | None
    stage = "merge"

    def run(self, folder: ExperimentFolder) -> None:
        self.write(folder, Path(self.model(folder)))

    def write(self, folder: ExperimentFolder, output: Path) -> Path:
        from revt_hf.merging.average import MergeOptions, merge

        base = folder.model_of(self.base) if self.base in self.inputs else self.base
        members = tuple(map(folder.model_of, self.members))
        spec = MergeSpec(members, self.rules, self.head, base)
        return merge(spec, output, options=MergeOptions(overwrite=True))

    def settings(self) -> dict[str, Any]:
        rules = [[one.select, one.method, one.settings] for one in self.rules]
        return {"rules": rules, "head": self.head, "base": self.base}

    def checkpoint(self) -> str | None:
        return None if self.base in self.inputs else self.base


@dataclass(frozen=True)
class Network:
    """A network to score: one step's model, or several that are combined.

    ``group`` is its row in the table; the first of ``parts``, which are steps, provides the head.
    """

    id: str
    group: str
    kind: Kind
    seed: int | None
    parts: tuple[str, ...]
    head: str | None = None
    paper: PaperKey | None = None
    combine: str | None = None

    @property
    def labels(self) -> dict[str, Any]:
        """The fields of a result that may change without scoring again."""
        return {name: getattr(self, name) for name in ("group", "kind", "seed", "paper")}


@dataclass(frozen=True)
class Score(Step):
    """Score a network on all splits by one protocol."""

    network: Network
    protocol_name: str
    protocol: Protocol
    splits: tuple[SplitSpec, ...]
    evaluate: Evaluate
    merge: MergeStep | None = None
    stage = "score"

    def run_together(
        self, steps: Sequence[Step], folder: ExperimentFolder, on_image: Callable[[], object]
    ) -> None:
        from revt_hf.experiments.experiment_results import score_networks

        score_networks([step for step in steps if isinstance(step, Score)], folder, on_image)

    def companions(self, ready: Sequence[Step], folder: ExperimentFolder) -> list[Step]:
        """The next scores by the same protocol whose networks fit into memory together."""
        found: list[Step] = []
        held: dict[str, int] = {}
        for step in (one for one in ready if isinstance(one, Score)):
            held |= step._sizes(folder)
            fits = len(found) < _MOST_NETWORKS and sum(held.values()) <= _MOST_BYTES
            if found and (step.protocol_name != self.protocol_name or not fits):
                break
            found.append(step)
        return found

    def _sizes(self, folder: ExperimentFolder) -> dict[str, int]:
        if self.merge is not None:
            return {}
        weights = {part: Path(folder.model_of(part)) / WEIGHTS_FILE for part in self.network.parts}
        return {part: w.stat().st_size if w.is_file() else 0 for part, w in weights.items()}

    def settings(self) -> dict[str, Any]:
        return {
            "merge": self.merge.settings() if self.merge else None,
            "protocol": changed(self.protocol),
            "splits": [[changed(s.spec), s.split, s.is_source] for s in self.splits],
            "combine": self.network.combine,
            "cost": self.evaluate.cost,
            "calibration": self.evaluate.calibration,
        }

    def output(self, folder: ExperimentFolder) -> Path:
        return folder.path / f"{self.id}.json"

    def images(self) -> list[tuple[DomainSpec, str]]:
        return [(split.spec, split.split) for split in self.splits]

    def checkpoint(self) -> str | None:
        return self.merge.checkpoint() if self.merge else None

    def fingerprint(self, folder: ExperimentFolder) -> str:
        """A hash of the scores; the labels beside them may change."""
        return hash_of(read_result(self.output(folder)).model_dump(mode="json", include={"scores"}))

    def update_labels(self, folder: ExperimentFolder) -> None:
        result = read_result(self.output(folder))
        relabelled = result.model_copy(update=self.network.labels)
        if relabelled != result:
            write_results(self.output(folder), [relabelled])
            record = folder.record(self)
            folder.finish(self, record.seconds if record else 0)


@dataclass(frozen=True)
class Choose(Step):
    """Take the best of ``candidates`` (networks) by the mean mIoU on ``on`` (labels of splits)."""

    network: Network
    candidates: tuple[str, ...]
    on: tuple[str, ...]
    on_target: bool
    protocols: tuple[str, ...]
    stage = "select"

    def run(self, folder: ExperimentFolder) -> None:
        """Write what was chosen, and its results under the selection's own name."""
        scores = {}
        for candidate in self.candidates:
            result = read_result(result_file(folder, self.protocols[0], candidate))
            miou = {score.label: score.miou for score in result.scores}
            scores[candidate] = sum(miou[label] for label in self.on) / len(self.on)
        best = max(scores, key=scores.__getitem__)
        selected = Selected(on=self.on, target=self.on_target, candidates=len(scores), chosen=best)
        for protocol in self.protocols:
            result = read_result(result_file(folder, protocol, best))
            renamed = result.model_copy(update={**self.network.labels, "selected": selected})
            write_results(result_file(folder, protocol, self.id), [renamed])
        write_json(self.output(folder), {"chosen": best, "on": list(self.on), "scores": scores})

    def settings(self) -> dict[str, Any]:
        return {"candidates": self.candidates, "on": self.on}

    def output(self, folder: ExperimentFolder) -> Path:
        return folder.path / f"{self.id}.json"


def result_file(folder: ExperimentFolder, protocol: str, network: str) -> Path:
    return folder.path / f"results/{protocol}/{network}.json"


def read_result(path: Path) -> Result:
    try:
        (result,) = read_results([path])
        return result
    except (UserError, ValueError) as error:
        raise UserError(f"cannot read the result {path}: delete it and run again") from error
