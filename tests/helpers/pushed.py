"""Tiny trained models, their merge and their results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.config.recipe import DomainSpec
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
from revt_hf.evaluation.result import Result, SplitSpec, read_results, write_results
from revt_hf.hub.push import PushOptions
from revt_hf.merging.average import merge
from revt_hf.models.recorded import recorded_protocol
from tests.helpers.tiny import run, tiny_recipe

LICENSE = PushOptions(license="apache-2.0", quiet=True)


@dataclass(frozen=True)
class Models:
    """Folders: members of methods 1 and 4, their merge; results of the merge and one member."""

    base: Path
    pixmix: Path
    revt: Path
    results: Path


def make_models(root: Path) -> Models:
    models = Models(root / "base", root / "pixmix", root / "revt", root / "results.json")
    target = {"domain": "streets", "config": "night", "options": {"val_images": 2}}
    for folder, number in ((models.base, 1), (models.pixmix, 4)):
        run(folder, tiny_recipe(augmentation={"method": number}, targets=[target]))
    merge([models.base, models.pixmix], models.revt)
    options = {"val_images": 2, "size": [64, 128]}
    splits = [
        SplitSpec(DomainSpec(domain="streets", config=config, options=options), "val", False)
        for config in ("night", None)
    ]
    folders = {str(folder): folder for folder in (models.revt, models.base)}
    protocol = recorded_protocol(list(folders.values()))
    write_results(models.results, evaluate(folders, splits, protocol, EvaluateOptions(quiet=True)))
    return models


def results_of(models: Models) -> list[Result]:
    """Results of the merge and of a member, each on night and on the source's val."""
    return read_results([models.results])


def changed(result: Result, *scores: dict[str, Any], **fields: Any) -> Result:
    """A result with other fields, and other values of its first score, one score for each."""
    first = result.scores[0]
    other = tuple(first.model_copy(update=values) for values in scores)
    return result.model_copy(update={"scores": other or result.scores, **fields})
