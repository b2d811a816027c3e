"""YAML with ``extends``, refused duplicates and ``key.subkey=value`` overrides.

Sizes are limited, so that no file takes more than a second to read.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from revt_hf.core.errors import UserError, shortened

# Recipes have some hundred values. An alias counts as everything it stands for.
_BYTES, _NODES, _DEPTH, _FILES, _DIGITS = 1 << 18, 10_000, 40, 32, 400
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """Only values that JSON has, too; refuses duplicate keys, of which PyYAML keeps the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        self._count += 1
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
            elif node.tag != _TEXT and len(node.value) > _DIGITS:
                raise UserError(
                    f"line {node.start_mark.line + 1} holds a number of too many digits"
                )
        return root

    def mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        found = set()
        for key_node, _ in node.value:
            merges = key_node.tag == _MERGE
            key = key_node.value if merges else self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | None):
                raise UserError(f"line {key_node.start_mark.line + 1}: a key is a word or a number")
            if key in found:
                line = node.start_mark.line + 1
                raise UserError(f"the key '{key}' appears twice in the mapping at line {line}")
            found.add(key)
        return self.construct_mapping(node, deep=True)

    def date(self, node: yaml.ScalarNode) -> str:
        self.construct_yaml_timestamp(node)
        return str(node.value)


# No recipe contains sets, bytes and the like.
_KINDS = ("null", "bool", "int", "float", "str", "seq")
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _KINDS
}
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.date)


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


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"cannot read the recipe {path}: not a regular file")
        with path.open("rb") as file:
            # One more byte, so that parse_yaml notices a file that is too large.
            data = file.read(_BYTES + 1)
        text = data.decode() if len(data) <= _BYTES else data.decode(errors="replace")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise UserError(f"cannot read the recipe {path}: {reason}") from error
    try:
        values = parse_yaml(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a YAML mapping, this is {type(values).__name__}")
    return values


def read_with_parents(
    path: Path, localise: Callable[[dict[str, Any], Path], None] | None = None
) -> dict[str, Any]:
    """Read a mapping and merge it over the files that it extends; only nested mappings are merged.

    ``localise`` is called with each file's own values and its folder, to change paths in place.
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
        values = _read_yaml(path)
        parents = _parents(path, values.pop("extends", []))
        if localise is not None:
            localise(values, path.parent)
        merged: dict[str, Any] = {}
        for parent in parents:
            merged = _merge(merged, read(path.parent / parent, (*children, resolved)))
        merged_by_path[resolved] = _merge(merged, values)
        return merged_by_path[resolved]

    return read(path, ())


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
