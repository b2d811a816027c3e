"""Taking the places of this machine out of what is published."""

import re
from collections.abc import Collection, Mapping
from typing import Any

# What stands under these keys is a folder or file, even where it is relative.
_KEYS = frozenset({"data_dir", "prepared", "start", "mixing", "path", "head", "_name_or_path"})
_ABSOLUTE = re.compile(r"^(/|~|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\)")
_NAMELESS = "folder"


def last_part(path: str) -> str:
    """The last part of a path or Hub id of any system, without ``@revision``."""
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1].partition("@")[0]
    return _NAMELESS if name in ("", ".", "..", "~") else name


def without_places(value: Any, hub_ids: Collection[str] = (), key: str = "") -> Any:
    """A JSON value with every path of this machine reduced to its last part.

    Args:
        value: mappings, lists and plain values.
        hub_ids: what looks like a path but is the id of a Hub repository; it stays.
        key: under which the value stands.
    """
    if isinstance(value, Mapping):
        return {name: without_places(inner, hub_ids, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner, hub_ids, key) for inner in value]
    if not isinstance(value, str) or value.partition("@")[0] in hub_ids:
        return value
    return last_part(value) if key in _KEYS or _ABSOLUTE.match(value) else value
