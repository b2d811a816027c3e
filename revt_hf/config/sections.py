"""Shared types of validated files: bounded numbers, expanded paths, one-sentence errors."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from revt_hf.core.errors import UserError, shortened

Validated = TypeVar("Validated", bound=BaseModel)
_SHOWN = 200


def _expand(value: Any) -> Any:
    """Expand ``~`` and environment variables in a path."""
    if not isinstance(value, str):
        return value
    expanded = os.path.expandvars(str(Path(value).expanduser())) if value else value
    undefined = re.search(r"\$\{?(\w+)", expanded)
    if undefined:
        raise ValueError(f"the environment variable {undefined[1]} is not set")
    return expanded


ExpandedPath = Annotated[str, BeforeValidator(_expand)]
# Accepted values must not fail hours later: numbers are finite, and no larger than can work.
Positive = Annotated[int, Field(gt=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Pixels = Annotated[int, Field(gt=0, le=2**15)]
CropSide = Annotated[int, Field(ge=32, le=2**15)]
BatchSize = Annotated[int, Field(gt=0, le=2**16)]
Workers = Annotated[int, Field(ge=0, le=256)]
Number = Annotated[float, Field(ge=-1e9, le=1e9)]


class Section(BaseModel):
    """A mapping in a YAML file: no unknown keys, no infinity, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def validated(model: type[Validated], values: Any, name: str | Path, prefix: str = "") -> Validated:
    """Validate values; a UserError starts with ``name``, ``prefix`` leads the path in it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name}: {validation_sentence(model, error, prefix)}") from error


def validation_sentence(model: type[BaseModel], error: ValidationError, prefix: str) -> str:
    """One sentence for the first problem of a pydantic error; ``prefix`` leads its path."""
    # A misspelt key explains more than the missing one that it causes.
    problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = ".".join(part for part in (prefix, *map(str, problem["loc"])) if part)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        return f"{path}: unknown key ({hint})"
    if problem["type"] == "missing":
        return f"{path}: required, but not given"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{path}: {message}" if path else message
    given = shortened(repr(problem["input"]), _SHOWN)
    return f"{path}: {message[0].lower()}{message[1:]}, not {given}"


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The known keys of a nested model; none if there is no model at that location."""
    for part in location:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            # An index of a list, a key of a mapping, or a branch of a union.
            continue
        inner = _model_in(field.annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as ``tuple[Target, ...]`` or ``dict[str, Member]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
