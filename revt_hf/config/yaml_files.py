"""YAML files: ``extends``, ``key.subkey=value`` overrides, and typed sections to validate them.

Sizes are limited, so that no file takes more than a second to read.
"""

import difflib
import errno
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from revt_hf.core.errors import UserError, shortened

Validated = TypeVar("Validated", bound=BaseModel)
_SHOWN = 200
# Recipes have some hundred values. An alias counts as everything it stands for.
_BYTES, _NODES, _DEPTH, _FILES, _DIGITS = 1 << 18, 10_000, 40, 32, 400
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Only values that JSON has, too; refuses duplicate keys, of which PyYAML keeps the last."""

    _depth = _count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth, self._count = self._depth + 1, self._count + 1
        _check_growth(self._count, self._depth)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        waiting, count = [(root, 1)] if root is not None else [], 0
        while waiting:
            node, depth = waiting.pop()
            count += 1
            _check_growth(count, depth)
            if isinstance(node, yaml.MappingNode):
                waiting += [(part, depth + 1) for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                waiting += [(part, depth + 1) for part in node.value]
            elif node.tag != f"{_TAG}str" and len(node.value) > _DIGITS:
                line = node.start_mark.line + 1
                raise UserError(f"line {line} holds a number of too many digits")
        return root

    def mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        found = set()
        for key_node, _ in node.value:
            merges = key_node.tag == f"{_TAG}merge"
            key = key_node.value if merges else self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | None):
                raise UserError(f"line {key_node.start_mark.line + 1}: a key is a word or a number")
            if key in found:
                where = f"in the mapping at line {node.start_mark.line + 1}"
                raise UserError(f"the key '{key}' appears twice {where}")
            found.add(key)
        return self.construct_mapping(node, deep=True)

    def date(self, node: yaml.ScalarNode) -> str:
        self.construct_yaml_timestamp(node)
        return str(node.value)


# No recipe contains sets, bytes and the like.
_KINDS = (None, *(_TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq")))
_Loader.yaml_constructors = {kind: yaml.SafeLoader.yaml_constructors[kind] for kind in _KINDS}
_Loader.add_constructor(f"{_TAG}map", _Loader.mapping)
_Loader.add_constructor(f"{_TAG}timestamp", _Loader.date)


def _check_growth(count: int, depth: int) -> None:
    if count > _NODES:
        raise UserError(f"more than {_NODES} values")
    if depth > _DEPTH:
        raise UserError(f"values nested deeper than {_DEPTH} levels")


def parse_yaml(text: str) -> Any:
    """Parse a YAML document of mappings, lists, strings and numbers; errors name no file."""
    if len(text) > _BYTES:
        raise UserError(f"more than {_BYTES >> 10} KiB of YAML")
    try:
        return _unshared(yaml.load(text, _Loader))  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise UserError(f"broken YAML{where}: {problem}") from error
    # Raised by PyYAML's constructors for 2001-99-99, !!int x, !!bool q, !!timestamp x.
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise UserError(f"broken YAML: a value does not fit its type ({error})") from error


def _unshared(value: Any) -> Any:
    """A copy in which aliases are separate objects, so that one can be overridden."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, within the limits of :func:`parse_yaml`."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        with path.open("rb") as file:
            # One more byte, so that parse_yaml notices a file that is too large.
            data = file.read(_BYTES + 1)
        return parse_yaml(data.decode(errors="strict" if len(data) <= _BYTES else "replace"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise UserError(f"cannot read {path}: {reason}") from error


def read_with_parents(
    path: Path,
    overrides: Sequence[str] = (),
    localise: Callable[[dict[str, Any], Path], None] | None = None,
) -> dict[str, Any]:
    """Read a mapping, merge it over the files that it extends, and apply ``a.b=c`` overrides.

    Only nested mappings are merged. ``localise`` is called with each file's own values and its
    folder, to change paths in place.
    """
    merged_by_path: dict[Path, dict[str, Any]] = {}

    def read(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
        try:
            resolved = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"cannot read the recipe {path}: there can be no such file") from error
        if resolved in children:
            raise UserError(f"{path}: extends goes round in a circle")
        if resolved in merged_by_path:
            return merged_by_path[resolved]
        if len(merged_by_path) + len(children) >= _FILES:
            raise UserError(f"{path}: more than {_FILES} files extend each other")
        values = read_yaml(path)
        if not isinstance(values, dict):
            raise UserError(f"{path}: a recipe is a YAML mapping, this is {type(values).__name__}")
        parents = _parents(path, values.pop("extends", []))
        if localise is not None:
            localise(values, path.parent)
        merged: dict[str, Any] = {}
        for parent in parents:
            merged = _merge(merged, read(path.parent / parent, (*children, resolved)))
        merged_by_path[resolved] = _merge(merged, values)
        return merged_by_path[resolved]

    values = read(path, ())
    for override in overrides:
        apply_override(values, override)
    return values


def _parents(path: Path, given: Any) -> list[str]:
    parents = [given] if isinstance(given, str) else given
    if not isinstance(parents, list) or not all(isinstance(one, str) for one in parents):
        raise UserError(f"{path}: extends: a file name or a list of them, not {parents!r}")
    if len(parents) > _FILES:
        raise UserError(f"{path}: extends: at most {_FILES} files")
    return parents


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set ``a.b=c`` in nested mappings, in place; the value is read as YAML."""
    path, equals, text = override.partition("=")
    keys, name = path.split("."), f"--set {shortened(override)}"
    if not equals or not all(keys) or len(keys) > _DEPTH:
        raise UserError(f"{name}: write it as key.subkey=value")
    try:
        value = parse_yaml(text)
    except UserError as error:
        raise UserError(f"{name}: the value is not YAML ({error})") from error
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"{name}: '{key}' is a value, it has no keys of its own")
    values[keys[-1]] = value


def _expand(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    expanded = os.path.expandvars(str(Path(value).expanduser())) if value else value
    undefined = re.search(r"\$\{?(\w+)", expanded)
    if undefined:
        raise ValueError(f"the environment variable {undefined[1]} is not set")
    return expanded


ExpandedPath = Annotated[str, BeforeValidator(_expand)]
# Accepted values must not fail hours later: numbers are finite, and no larger than can work.
Share = Annotated[float, Field(ge=0, le=1)]
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

    @model_validator(mode="wrap")
    @classmethod
    def _numbers_are_no_switches(
        cls, values: Any, handler: ModelWrapValidatorHandler[Self]
    ) -> Self:
        """In Python true is 1, in a recipe it is a mistake."""
        made = handler(values)
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, bool) and not isinstance(getattr(made, key, None), bool):
                raise ValueError(f"{key} is a number, not {str(value).lower()}")
        return made


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
    if problem["type"] == "model_type":
        keys = ", ".join(_fields_at(model, problem["loc"]))
        return f"{path}: give a mapping with keys of {keys}, not {given}"
    return f"{path}: {message[0].lower()}{message[1:]}, not {given}"


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The known keys of a nested model; none if there is no model at that location."""
    inner: type[BaseModel] | None = model
    for part in location:
        # Others are an index of a list, a key of a mapping, or a branch of a union.
        if inner is not None and part in inner.model_fields:
            inner = _model_in(inner.model_fields[part].annotation)
    return [] if inner is None else list(inner.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as ``tuple[Target, ...]`` or ``dict[str, Member]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
