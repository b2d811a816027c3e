"""Remove local paths and tokens from what is published."""

import re
from collections.abc import Collection, Mapping
from typing import Any

# Values of these keys are paths, even relative ones.
_KEYS = frozenset({"data_dir", "prepared", "init", "mixing", "path", "head", "_name_or_path"})
_ABSOLUTE = re.compile(r"\s*(file:|/|~|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\)")
# In a longer text: from the begin of a path to a space or bracket. URLs have a colon before it.
_INSIDE = re.compile(
    r"(?<![\w/\\:.~*)\]])(?:file:/+|/(?=\w)|~[\w.-]*/|[A-Za-z]:[/\\]|\\\\)[^\s'\"`,;()\[\]{}<>|]+"
)
_SECRETS = re.compile(r"\bhf_\w{8,}|(?<=://)[^/@\s]+@")
_NAMELESS = "folder"


def last_part(path: str) -> str:
    """The last part of a path or Hub ID, without ``@revision``; paths of any system."""
    plain = _without_tokens(path).strip().rstrip("/\\")
    name = re.split(r"[/\\]", plain)[-1].partition("@")[0].removeprefix("file:")
    return _NAMELESS if name in ("", ".", "..") or name.startswith("~") else name


def without_local_paths(value: Any, hub_ids: Collection[str] = (), key: str = "") -> Any:
    """A JSON value in which local paths are reduced to their last part and tokens are removed.

    Hub IDs look like paths but stay; ``key`` is the key of the value.
    """
    if isinstance(value, Mapping):
        return {
            without_local_paths(str(name)): without_local_paths(inner, hub_ids, str(name))
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_local_paths(inner, hub_ids, key) for inner in value]
    if not isinstance(value, str) or value.partition("@")[0] in hub_ids:
        return value
    if key in _KEYS or _ABSOLUTE.match(value):
        return last_part(value)
    return _INSIDE.sub(lambda found: last_part(found[0]), _without_tokens(value))


def _without_tokens(text: str) -> str:
    # Names of files may hold bytes that are not UTF-8.
    return _SECRETS.sub("", text.encode("utf-8", "replace").decode())
