"""What a result folder says of itself: its recipe, and the protocol it was made for."""

import json
from collections.abc import Sequence
from pathlib import Path

from revt_hf.checkpoints.tensors import MERGE_FILE, RECIPE_FILE
from revt_hf.errors import UserError
from revt_hf.recipe import Evaluation, Recipe, load_recipe

__all__ = ["MERGE_FILE", "RECIPE_FILE", "recorded_evaluation", "recorded_recipe"]


def recorded_recipe(folder: str | Path) -> Recipe | None:
    """The resolved recipe that stands beside a result, if there is one.

    Raises:
        UserError: it is there but not valid.
    """
    path = Path(folder) / RECIPE_FILE
    return load_recipe(path) if path.is_file() else None


def recorded_evaluation(models: Sequence[str | Path]) -> Evaluation:
    """The test protocol that the models' folders name, else the original's (bound 1024x512).

    A trained folder names it in ``recipe.yaml``, a merged one in ``merge.json``.

    Raises:
        UserError: the models were made for different protocols.
    """
    recorded = {str(model): _evaluation_of(Path(model)) for model in models}
    if len(set(recorded.values())) > 1:
        listed = ", ".join(f"{model}: {what.bound}" for model, what in recorded.items())
        raise UserError(f"the models are made for different picture sizes ({listed}): pass --bound")
    return next(iter(recorded.values()))


def _evaluation_of(folder: Path) -> Evaluation:
    recipe = recorded_recipe(folder)
    if recipe is not None:
        return recipe.evaluation
    path = folder / MERGE_FILE
    if not path.is_file():
        return Evaluation()
    try:
        return Evaluation.model_validate(json.loads(path.read_text())["evaluation"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a merge record of revt_hf") from error
