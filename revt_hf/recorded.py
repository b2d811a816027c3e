"""What a result folder says of itself: its recipe, and the protocol it was made for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.json_fields import read_json
from revt_hf.checkpoints.tensors import MERGE_FILE, RECIPE_FILE
from revt_hf.errors import UserError
from revt_hf.recipe import PROTOCOLS, Evaluation, Recipe, load_recipe

__all__ = ["MERGE_FILE", "RECIPE_FILE", "recorded_evaluation", "recorded_recipe"]


def recorded_recipe(folder: str | Path) -> Recipe | None:
    """The resolved recipe that stands beside a result, if there is one.

    Raises:
        UserError: it is there but not valid.
    """
    path = Path(folder) / RECIPE_FILE
    return load_recipe(path) if path.is_file() else None


def recorded_evaluation(models: Sequence[str | Path], **changes: Any) -> Evaluation:
    """The test protocol that the models' folders name, else the original's (bound 1024x512).

    A trained folder names it in ``recipe.yaml``, a merged one in ``merge.json``.

    Args:
        models: folders or Hub ids.
        changes: fields of the protocol that are to be otherwise, such as ``bound``.

    Raises:
        UserError: the models were made for different protocols.
    """
    recorded = {
        str(model): _evaluation_of(Path(model)).model_copy(update=changes) for model in models
    }
    if len(set(recorded.values())) > 1:
        listed = ", ".join(f"{model}: {_short(what)}" for model, what in recorded.items())
        raise UserError(
            f"the models are made for different test protocols ({listed}): pass --protocol, or "
            "--bound if only that differs"
        )
    return next(iter(recorded.values()))


def _short(evaluation: Evaluation) -> str:
    """Its name, or its fields that are not the default."""
    names = [name for name, known in PROTOCOLS.items() if known == evaluation]
    if names:
        return names[0]
    changed = evaluation.model_dump(exclude_defaults=True)
    return ", ".join(f"{field} {value}" for field, value in changed.items())


def _evaluation_of(folder: Path) -> Evaluation:
    recipe = recorded_recipe(folder)
    if recipe is not None:
        return recipe.evaluation
    path = folder / MERGE_FILE
    if not path.is_file():
        return Evaluation()
    try:
        return Evaluation.model_validate(read_json(path)["evaluation"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a merge record of revt_hf") from error
