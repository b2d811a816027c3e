"""What a result folder says of itself: its recipe, and the protocol it was made for."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.tensors import MERGE_FILE, RECIPE_FILE, open_checkpoint
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe, load_recipe
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.core.outputs import is_listed, read_json_object

__all__ = ["MERGE_FILE", "RECIPE_FILE", "recorded_protocol", "recorded_recipe"]

# Every resolved recipe of ours begins with them.
_SECTION = re.compile(rb"^(model|source)[ \t]*:", re.MULTILINE)


def recorded_recipe(folder: str | Path) -> Recipe | None:
    """The resolved recipe that stands beside a result, if there is one.

    A ``recipe.yaml`` of another program is passed over with a :class:`DataWarning`.

    Raises:
        UserError: it is there but not valid.
    """
    path = Path(folder) / RECIPE_FILE
    if not path.is_file():
        return None
    try:
        return load_recipe(path)
    except UserError:
        if _is_ours(path):
            raise
    warnings.warn(f"{path} is no recipe of revt: it is passed over", DataWarning, stacklevel=1)
    return None


def _is_ours(path: Path) -> bool:
    """Whether a recipe that cannot be read is a damaged one of ours.

    What comes from the Hub has no marker; and damage leaves lines that can be told.
    """
    if is_listed(path.parent, path.name):
        return True
    try:
        return set(_SECTION.findall(path.read_bytes())) == {b"model", b"source"}
    except OSError:
        return True


def recorded_protocol(models: Sequence[str | Path], **changes: Any) -> Protocol:
    """The test protocol that the models' folders name, else the original's (max_size 1024x512).

    A trained folder names it in ``recipe.yaml``, a merged one in ``merge.json``.

    Args:
        models: folders or Hub ids.
        changes: fields of the protocol that are to be otherwise, such as ``max_size``.

    Raises:
        UserError: the models were made for different protocols, or one is not there.
    """
    recorded = {
        str(model): _evaluation_of(Path(model)).model_copy(update=changes) for model in models
    }
    if len(set(recorded.values())) > 1:
        for model in models:
            if not Path(model).exists():
                # A mistyped folder, of which nothing is recorded, is the first thing to say.
                open_checkpoint(model, quiet=True).close()
        listed = ", ".join(f"{model}: {_short(what)}" for model, what in recorded.items())
        raise UserError(
            f"the models are made for different test protocols ({listed}): pass --protocol, or "
            "--max-size if only that differs"
        )
    return next(iter(recorded.values()))


def _short(evaluation: Protocol) -> str:
    """Its name, or its fields that are not the default."""
    if evaluation.preset is not None:
        return evaluation.preset
    changed = evaluation.model_dump(exclude_defaults=True)
    return ", ".join(f"{field} {value}" for field, value in changed.items())


def _evaluation_of(folder: Path) -> Protocol:
    recipe = recorded_recipe(folder)
    if recipe is not None:
        return recipe.evaluation
    path = folder / MERGE_FILE
    if not path.is_file():
        return Protocol()
    try:
        return Protocol.model_validate(read_json_object(path)["evaluation"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a merge record of revt_hf") from error
