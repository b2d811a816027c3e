"""Tiny trained models, their merge and their results, and a local Hub to push them to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.core.outputs import write_json
from revt_hf.evaluation.command import EvaluateOptions, evaluate_command, requested_splits
from revt_hf.hub.push import PushOptions
from revt_hf.merging.average import merge
from tests.helpers.hub_server import TOKEN, local_hub
from tests.helpers.tiny import run, tiny_recipe

__all__ = ["LICENSE", "TOKEN", "Models", "files_of", "local_hub", "make_models", "results_of"]

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
    options = ["val_images=2", "size=[64, 128]"]
    splits = [
        *requested_splits(None, "streets", None, "night", "val", options),
        *requested_splits(None, "streets", None, None, "val", options),
    ]
    names = [str(models.revt), str(models.base)]
    done = evaluate_command(names, splits, EvaluateOptions(quiet=True))
    write_json(models.results, [result.to_json() for result in done])
    return models


def results_of(models: Models) -> list[dict[str, Any]]:
    return json.loads(models.results.read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
