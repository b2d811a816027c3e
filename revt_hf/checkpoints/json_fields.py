"""JSON files that strangers wrote: every wrong value is one sentence with file and key."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object

_CHANNELS = 3
_SHOWN = 60


class JsonFields:
    """The top-level keys of a JSON file; whatever is wrong is one sentence with file and key.

    null stands for a key that is not there, as in transformers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json_object(path)

    def wrong(self, key: str, why: str) -> UserError:
        shown = ascii(self.values.get(key))
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        return UserError(f"{self.path}: {key} is {shown}, and {why}")

    def equal(self, key: str, needed: Any) -> None:
        value = self.values.get(key)
        if value is not None and (type(value) is not type(needed) or value != needed):
            raise self.wrong(key, f"only {json.dumps(needed)} is known here")

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._get(key, default, lambda v: isinstance(v, bool), "it has to be a bool"))

    def one_of(self, key: str, default: str, known: tuple[str, ...]) -> str:
        return str(
            self._get(
                key,
                default,
                lambda value: isinstance(value, str) and value in known,
                f"known are {', '.join(known)}",
            )
        )

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        return int(
            self._get(
                key,
                default,
                lambda value: _is_whole(value, least, most),
                f"it has to be a whole number from {least} to {most}",
            )
        )

    def wholes(self, key: str, default: tuple[int, ...], count: int, most: int) -> tuple[int, ...]:
        value = self._get(
            key,
            list(default),
            lambda value: isinstance(value, list) and all(_is_whole(one, 1, most) for one in value),
            f"it has to be a list of whole numbers from 1 to {most}",
        )
        if len(value) != count:
            raise self.wrong(key, f"it has to have one number for each of the {count} stages")
        return tuple(value)

    def number(self, key: str, default: float, least: float, most: float) -> float:
        return float(
            self._get(
                key,
                default,
                lambda value: _is_number(value) and least <= value <= most,
                f"it has to be a number from {least:g} to {most:g}",
            )
        )

    def channels(
        self, key: str, default: tuple[float, float, float], above_zero: bool = False
    ) -> tuple[float, float, float]:
        def right(value: Any) -> bool:
            numbers = value if isinstance(value, list) else [value]
            return len(numbers) in (1, _CHANNELS) and all(
                _is_number(one) and abs(one) < 1e9 and (one > 1e-9 or not above_zero)
                for one in numbers
            )

        wanted = "positive numbers" if above_zero else "numbers"
        value = self._get(key, list(default), right, f"it has to be three {wanted}, or one")
        numbers = value if isinstance(value, list) else [value]
        red, green, blue = numbers if len(numbers) == _CHANNELS else numbers * _CHANNELS
        return float(red), float(green), float(blue)

    def _get(self, key: str, default: Any, right: Callable[[Any], bool], why: str) -> Any:
        value = self.values.get(key)
        if value is None:
            return default
        if not right(value):
            raise self.wrong(key, why)
        return value


def _is_whole(value: Any, least: int, most: int) -> bool:
    # In Python true is an int, too.
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))
