"""The steps of an experiment that end with a model: trainings, checkpoints, averages, merges."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from revt_hf.checkpoints.tensors import RECIPE_FILE
from revt_hf.config.recipe import DomainSpec, Recipe, Source
from revt_hf.core.errors import UserError
from revt_hf.experiments.experiment_folder import ExperimentFolder, Status, Step
from revt_hf.experiments.training_processes import TrainingJob, train_side_by_side
from revt_hf.merging.registry import MergeSpec, Rule
from revt_hf.models.recorded import recorded_recipe
from revt_hf.training.run_folder import newest_checkpoint, training_folder


@dataclass(frozen=True)
class Given(Step):
    """A checkpoint that exists already: a folder or Hub ID."""

    path: str

    def run(self, folder: ExperimentFolder) -> None:
        """Refuse: there is no such checkpoint."""
        raise UserError(folder.status(self.id).note)

    def settings(self) -> dict[str, Any]:
        return {"checkpoint": self.path}

    def model(self, folder: ExperimentFolder) -> str:
        return self.path

    def fingerprint(self, folder: ExperimentFolder) -> str:
        return folder.checkpoint_hash(self.path)

    def status(self, folder: ExperimentFolder) -> Status:
        try:
            folder.checkpoint_hash(self.path)
        except UserError as error:
            return Status("missing", str(error))
        return Status("done")


@dataclass(frozen=True)
class Average(Step):
    """An average that a training (the input) keeps besides its final weights."""

    kind: str

    def run(self, folder: ExperimentFolder) -> None:
        """Refuse: the training kept no such average."""
        raise UserError(folder.status(self.id).note)

    def settings(self) -> dict[str, Any]:
        return {"average": self.kind}

    def model(self, folder: ExperimentFolder) -> str:
        return str(Path(folder.model_of(self.inputs[0])) / self.kind)

    def fingerprint(self, folder: ExperimentFolder) -> str:
        return folder.checkpoint_hash(self.model(folder))

    def status(self, folder: ExperimentFolder) -> Status:
        (training,) = self.inputs
        if not folder.done(training):
            return Status("missing")
        if not self.output(folder).is_file():
            return Status("missing", f"{training} left no {self.kind}/")
        return Status("done")


@dataclass(frozen=True)
class Train(Step):
    """Train a member; its input, if it has one, is the member that provides the initial weights."""

    recipe: Recipe
    stage = "train"

    def run(self, folder: ExperimentFolder) -> None:
        """Train it alone; :meth:`job` is what runs side by side with others."""
        train_side_by_side([self.job(folder)], quiet=True)

    def settings(self) -> dict[str, Any]:
        return {"recipe": changed_values(self.recipe)}

    def images(self) -> list[tuple[DomainSpec, str]]:
        sources = self.recipe.sources
        held_out = sources if self.recipe.train.validate_every else ()
        return [*((one, one.train) for one in sources), *((one, one.val) for one in held_out)]

    def checkpoint(self) -> str | None:
        return self.recipe.model.init

    def status(self, folder: ExperimentFolder) -> Status:
        status = folder.recorded_status(self)
        own = Path(self.model(folder))
        trained = training_folder(own)
        begun = newest_checkpoint(trained)
        # Beside an older result lies the run that is to replace it.
        if status.state != "done" and begun and (status.state != "stale" or trained != own):
            note = status.note or f"step {begun[1]} of {self.recipe.train.steps}"
            return Status("begun", note)
        return status

    def job(self, folder: ExperimentFolder) -> TrainingJob:
        """The process that trains it; it resumes a run that was begun with the same recipe."""
        recipe = self.recipe
        if self.inputs:
            init = folder.model_of(self.inputs[0])
            model = recipe.model.model_dump(exclude_none=True) | {"init": init}
            recipe = Recipe.model_validate({**recipe.model_dump(), "model": model})
        own = Path(self.model(folder))
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
        """Write the merge anywhere."""
        from revt_hf.merging.average import MergeOptions, merge

        base = folder.model_of(self.base) if self.base in self.inputs else self.base
        members = tuple(map(folder.model_of, self.members))
        spec = MergeSpec(members, self.rules, self.head, base)
        return merge(spec, output, options=MergeOptions(overwrite=True))

    def settings(self) -> dict[str, Any]:
        rules = [
            [rule.select, rule.method, rule.weights, dict(rule.parameters)] for rule in self.rules
        ]
        return {"rules": rules, "head": self.head, "base": self.base}

    def checkpoint(self) -> str | None:
        return None if self.base in self.inputs else self.base


@dataclass(frozen=True)
class Recalibrate(Step):
    """Re-estimate the head's BatchNorm statistics of a merge (the input) on source images."""

    sources: tuple[Source, ...]
    count: int
    stage = "merge"

    def run(self, folder: ExperimentFolder) -> None:
        from revt_hf.merging.recalibration import RecalibrateOptions, recalibrate

        recalibrate(
            folder.model_of(self.inputs[0]),
            self.model(folder),
            self.sources,
            options=RecalibrateOptions(self.count, score_val=False, overwrite=True),
        )

    def settings(self) -> dict[str, Any]:
        return {"sources": [changed_values(one) for one in self.sources], "images": self.count}

    def images(self) -> list[tuple[DomainSpec, str]]:
        return [(source, source.train) for source in self.sources]


def changed_values(section: BaseModel) -> dict[str, Any]:
    """The values of a section that are not the default, for :meth:`Step.settings`."""
    return section.model_dump(mode="json", exclude_defaults=True)
