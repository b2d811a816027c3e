"""Taking the places of this machine out of what is published."""

import re
from collections.abc import Collection, Mapping
from typing import Any

# What stands under these keys is a folder or file, even where it is relative.
_KEYS = frozenset({"data_dir", "prepared", "init", "mixing", "path", "head", "_name_or_path"})
_ABSOLUTE = re.compile(r"\s*(file:|/|~|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\)")
# Within a longer text: what begins like a path, up to a space or bracket. Addresses have a colon.
_INSIDE = re.compile(
    r"(?<![\w/\\:.~*)\]])(?:file:/+|/(?=\w)|~[\w.-]*/|[A-Za-z]:[/\\]|\\\\)[^\s'\"`,;()\[\]{}<>|]+"
)
_SECRETS = re.compile(r"\bhf_\w{8,}|(?<=://)[^/@\s]+@")
_NAMELESS = "folder"


def last_part(path: str) -> str:
    """The last part of a path or Hub id of any system, without ``@revision``."""
    plain = _readable(path).strip().rstrip("/\\")
    name = re.split(r"[/\\]", plain)[-1].partition("@")[0].removeprefix("file:")
    return _NAMELESS if name in ("", ".", "..") or name.startswith("~") else name


def is_place(text: str) -> bool:
    """Whether a text is a path of this machine: absolute, of the home or of a folder above."""
    return _ABSOLUTE.match(text) is not None


def without_places(value: Any, hub_ids: Collection[str] = (), key: str = "") -> Any:
    """A JSON value with every path of this machine reduced to its last part, and no token.

    Args:
        value: mappings, lists and plain values.
        hub_ids: what looks like a path but is the ID of a Hub repository; it stays.
        key: under which the value stands.
    """
    if isinstance(value, Mapping):
        return {
            without_places(str(name)): without_places(inner, hub_ids, str(name))
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_places(inner, hub_ids, key) for inner in value]
    if not isinstance(value, str) or value.partition("@")[0] in hub_ids:
        return value
    if key in _KEYS or is_place(value):
        return last_part(value)
    return _INSIDE.sub(lambda found: last_part(found[0]), _readable(value))


def _readable(text: str) -> str:
    """The text without tokens, and without bytes of file names that are no text."""
    return _SECRETS.sub("", text.encode("utf-8", "replace").decode())
