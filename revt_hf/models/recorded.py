"""The recipe and test protocol that a model folder records."""

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

# Sections of every resolved recipe of ours.
_SECTION = re.compile(rb"^(model|source)[ \t]*:", re.MULTILINE)


def recorded_recipe(folder: str | Path) -> Recipe | None:
    """The resolved recipe in a model folder, if there is one.

    A ``recipe.yaml`` of another program is ignored with a :class:`DataWarning`.

    Raises:
        UserError: it exists but is not valid.
    """
    path = Path(folder) / RECIPE_FILE
    if not path.is_file():
        return None
    try:
        return load_recipe(path)
    except UserError:
        if _is_ours(path):
            raise
    warnings.warn(f"{path} is not a revt recipe: it is ignored", DataWarning, stacklevel=1)
    return None


def _is_ours(path: Path) -> bool:
    """Whether an invalid recipe is a damaged one of ours.

    Folders from the Hub have no marker; but damage leaves recognisable lines.
    """
    if is_listed(path.parent, path.name):
        return True
    try:
        return set(_SECTION.findall(path.read_bytes())) == {b"model", b"source"}
    except OSError:
        return True


def recorded_protocol(models: Sequence[str | Path], **changes: Any) -> Protocol:
    """The test protocol that the model folders record, by default the original's (1024x512).

    Trained models record it in ``recipe.yaml``, merged ones in ``merge.json``.

    Args:
        models: folders or Hub ids.
        changes: fields of the protocol to override, such as ``max_size``.

    Raises:
        UserError: the models record different protocols, or one does not exist.
    """
    recorded = {
        str(model): _evaluation_of(Path(model)).model_copy(update=changes) for model in models
    }
    if len(set(recorded.values())) > 1:
        for model in models:
            if not Path(model).exists():
                # Report a mistyped folder, which records nothing, first.
                open_checkpoint(model, quiet=True).close()
        listed = ", ".join(f"{model}: {_short(what)}" for model, what in recorded.items())
        raise UserError(
            f"the models record different test protocols ({listed}): pass --protocol, or "
            "--max-size if only that differs"
        )
    return next(iter(recorded.values()))


def _short(evaluation: Protocol) -> str:
    """The protocol's name, or its fields that differ from the default."""
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
