"""YAML with ``extends``, refused duplicates and ``key.subkey=value`` overrides."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from revt_hf.errors import UserError


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; we refuse."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            line = node.start_mark.line + 1
            raise UserError(f"the key '{key}' stands twice in the mapping at line {line}")
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise UserError(f"cannot read the recipe {path}: {reason}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{path}: broken YAML{where}: {problem}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a YAML mapping, this is {type(values).__name__}")
    return values


Localise = Callable[[dict[str, Any], Path], None]


def read_with_parents(
    path: Path, children: tuple[Path, ...] = (), localise: Localise | None = None
) -> dict[str, Any]:
    """Read a mapping and merge it over the files that its ``extends`` names.

    Nested mappings are merged, everything else is replaced.

    Args:
        path: the file.
        children: the files that led here.
        localise: called with each file's own values and its folder, to change paths in place.

    Raises:
        UserError: a missing file, broken YAML, a key that stands twice, a circle.
    """
    resolved = path.resolve()
    if resolved in children:
        raise UserError(f"{path}: extends goes round in a circle")
    values = _read_yaml(path)
    parents = values.pop("extends", [])
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise UserError(f"{path}: extends: a file name or a list of them, not {parents!r}")
    if localise is not None:
        localise(values, path.parent)
    merged: dict[str, Any] = {}
    for parent in parents:
        merged = _merge(
            merged, read_with_parents(path.parent / parent, (*children, resolved), localise)
        )
    return _merge(merged, values)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set ``a.b=c`` in nested mappings, in place; the value is read as YAML.

    Raises:
        UserError: not of that form, or a path through a value.
    """
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: write it as key.subkey=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not YAML") from error
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override}: '{key}' is a value, it has no keys of its own")
    values[keys[-1]] = value
