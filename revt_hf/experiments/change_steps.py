"""The steps of an experiment that change a merge: recalibrate it, and refit its head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.config.recipe import DomainSpec, Source
from revt_hf.experiments.experiment_folder import ExperimentFolder, Step
from revt_hf.experiments.steps import Train, changed
from revt_hf.experiments.training_processes import TrainingJob
from revt_hf.training.run_folder import refit_run


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
        return {"sources": [changed(one) for one in self.sources], "images": self.count}

    def images(self) -> list[tuple[DomainSpec, str]]:
        return [(source, source.train) for source in self.sources]


@dataclass(frozen=True)
class Refit(Train):
    """Train the decode head of a merge (the input) on source images, with settings of a recipe."""

    steps: int
    stage = "refit"

    @property
    def count(self) -> int:
        return self.steps

    def settings(self) -> dict[str, Any]:
        # What is scored has no part in it.
        recipe = self.recipe.model_copy(update={"targets": ()})
        return {"recipe": changed(recipe), "steps": self.steps}

    def images(self) -> list[tuple[DomainSpec, str]]:
        return [(source, source.train) for source in self.recipe.sources]

    def checkpoint(self) -> str | None:
        return None

    def run_folder(self, folder: ExperimentFolder) -> Path:
        return refit_run(Path(self.model(folder)))

    def job(self, folder: ExperimentFolder) -> TrainingJob:
        from revt_hf.checkpoints.description import read_description
        from revt_hf.merging.refit import RefitOptions, can_resume, refit_recipe

        (merge,) = map(folder.model_of, self.inputs)
        own, options = Path(self.model(folder)), RefitOptions(self.steps)
        recipe = refit_recipe(self.recipe, read_description(Path(merge)), options)
        resume = can_resume(Path(merge), own, self.recipe, options)
        return TrainingJob(self.id, recipe, own, resume, merge)
