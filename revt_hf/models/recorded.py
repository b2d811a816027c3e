"""The recipe, test protocol and training metrics that a model folder records."""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.tensors import (
    MERGE_FILE,
    RECIPE_FILE,
    adapter_base,
    local_folder,
    open_checkpoint,
)
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe, load_recipe
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.core.output_folders import is_listed
from revt_hf.core.outputs import read_json_object
from revt_hf.models.onnx_file import is_onnx, read_record

METRICS_FILE = "metrics.jsonl"
_LARGEST = 2**63
# Sections of every resolved recipe of ours.
_SECTION = re.compile(rb"^(model|source)[ \t]*:", re.MULTILINE)


def recorded_recipe(folder: str | Path) -> Recipe | None:
    """The resolved recipe in a model folder; one of another program is ignored with a warning."""
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
    """Whether an invalid recipe is a damaged one of ours; folders from the Hub have no marker."""
    if is_listed(path.parent, path.name):
        return True
    try:
        return set(_SECTION.findall(path.read_bytes())) == {b"model", b"source"}
    except OSError:
        return True


def recorded_protocol(models: Sequence[str | Path], **changes: Any) -> Protocol:
    """The one test protocol that models record, or the original's (1024x512); with ``changes``."""
    recorded = {
        str(model): _evaluation_of(local_folder(model)).model_copy(update=changes)
        for model in models
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
    if evaluation.preset is not None:
        return evaluation.preset
    changed = evaluation.model_dump(exclude_defaults=True)
    return ", ".join(f"{field} {value}" for field, value in changed.items())


def _evaluation_of(folder: Path) -> Protocol:
    recipe = recorded_recipe(folder)
    if recipe is not None:
        return recipe.evaluation
    if is_onnx(folder):
        return read_record(folder).protocol
    path = folder / MERGE_FILE
    if not path.is_file():
        base = adapter_base(folder)
        return Protocol() if base is None else _evaluation_of(base)
    try:
        return Protocol.model_validate(read_json_object(path)["evaluation"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a merge record of revt_hf") from error


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole rows of a run's ``metrics.jsonl``, if any: numbers by name, including ``step``."""
    try:
        lines = (folder / METRICS_FILE).read_bytes().splitlines()
    except OSError:
        return []
    return [row for row in map(_row, lines) if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
        return None
    # Numbers that fit a float, including infinity and NaN.
    whole = all(
        isinstance(value, float) or (type(value) is int and abs(value) < _LARGEST)
        for value in row.values()
    )
    return row if whole else None
