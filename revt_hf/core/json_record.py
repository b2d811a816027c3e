"""Dataclasses that are written as JSON."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any


class JsonRecord:
    """A dataclass that is written as JSON."""

    def to_json(self) -> dict[str, Any]:
        """JSON values, the format first; optional fields that are empty are left out."""
        values: dict[str, Any] = _json(self)
        return values


def _json(value: Any) -> Any:
    if is_dataclass(value):
        held = {field: getattr(value, field.name) for field in fields(value)}
        return {
            field.name: _json(held[field])
            for field in sorted(held, key=lambda field: field.name != "format")
            if held[field] or (field.default is MISSING and field.default_factory is MISSING)
        }
    return [_json(inner) for inner in value] if isinstance(value, list | tuple) else value
