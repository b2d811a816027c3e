"""Fields of JSON files: read without torch and pydantic, whose import takes longer than a merge."""

import json
import math
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, TypeVar

from revt_hf.core.errors import UserError, shortened
from revt_hf.core.outputs import read_json_object

# Keys that name code which transformers imports with trust_remote_code.
CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})
_SHOWN = 60
T = TypeVar("T")


class Fields:
    """The top-level keys of a JSON file; null is a missing key, as in transformers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json_object(path)

    def wrong(self, key: str, why: str) -> UserError:
        shown = shortened(ascii(self.values.get(key)), _SHOWN)
        return UserError(f"{self.path}: {key} is {shown}, and {why}")

    def get(self, key: str, default: T, valid: Callable[[Any], bool], why: str) -> T:
        """A value that is ``valid``, of the default's type; the default if it is missing."""
        value = self.values.get(key)
        if value is None:
            return default
        if not valid(value):
            raise self.wrong(key, why)
        return type(default)(value)  # type: ignore[call-arg]

    def equal(self, key: str, needed: Any) -> None:
        why = f"only {json.dumps(needed)} is known here"
        self.get(key, needed, lambda v: type(v) is type(needed) and v == needed, why)

    def flag(self, key: str, default: bool) -> bool:
        return self.get(key, default, lambda value: isinstance(value, bool), "it has to be a bool")

    def one_of(self, key: str, default: str, known: tuple[str, ...]) -> str:
        why = f"known are {', '.join(known)}"
        return self.get(key, default, lambda v: isinstance(v, str) and v in known, why)

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        why = f"it has to be a whole number from {least} to {most}"
        return self.get(key, default, lambda value: is_whole(value, least, most), why)

    def number(self, key: str, default: float, least: float, most: float) -> float:
        why = f"it has to be a number from {least:g} to {most:g}"
        return self.get(key, default, lambda v: is_number(v) and least <= v <= most, why)


def is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is an integer within limits; in Python true is an int, too."""
    return type(value) is int and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def without(values: Any, keys: Container[str]) -> Any:
    """JSON values without some keys, at any depth."""
    if isinstance(values, dict):
        return {key: without(value, keys) for key, value in values.items() if key not in keys}
    return [without(value, keys) for value in values] if isinstance(values, list) else values
