"""What to merge and how: rules of selections and methods."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from revt_hf.core.errors import UserError
from revt_hf.merging.registry import all_methods, find_method


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


@dataclass(frozen=True)
class Rule(JsonRecord):
    """A selection of tensors and how they are combined.

    Attributes:
        select: see ``revt_hf.merging.selection``.
        method: name of a registered method.
        weights: one per member, for methods that take them.
        parameters: of the method.
    """

    select: str = "backbone"
    method: str = "mean"
    weights: tuple[float, ...] | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Weights and parameters, where they are given."""
        given = {"weights": self.weights, "parameters": self.parameters}
        return {key: value for key, value in given.items() if value}

    def __str__(self) -> str:
        weights = f", weights {list(self.weights)}" if self.weights else ""
        extra = "".join(f", {key} {value:g}" for key, value in self.parameters.items())
        return f"{self.method} of '{self.select}'{weights}{extra}"


@dataclass(frozen=True)
class MergeSpec:
    """A merge: members in order, rules, and where everything else comes from.

    Attributes:
        members: folders, files or Hub IDs.
        rules: the last one that selects a tensor counts.
        head: number (from 1) of the member that gives all tensors that no rule selects, and those
            of integers.
        base: the members' initial model, for methods that need it.
        names: of the members in records and listings, None for the path; empty for all paths.
    """

    members: tuple[str, ...]
    rules: tuple[Rule, ...] = (Rule(),)
    head: int = 1
    base: str | None = None
    names: tuple[str | None, ...] = ()


def check_spec(spec: MergeSpec) -> None:
    """Refuse a merge that cannot work, before its members are opened."""
    count = len(spec.members)
    if count < 2:
        raise UserError("a merge needs at least two members")
    if not 1 <= spec.head <= count:
        raise UserError(f"head is the number of a member, 1 to {count}: {spec.head}")
    if not spec.rules:
        raise UserError("a merge needs at least one rule")
    for rule in spec.rules:
        method = find_method(rule.method)
        low, high = method.members
        if not low <= count <= (high or count):
            wanted = f"{low}" if low == high else f"{low} to {high}" if high else f"{low} or more"
            raise UserError(f"{rule.method} takes {wanted} members, not {count}")
        if method.needs_base and spec.base is None:
            raise UserError(f"{rule.method} needs a base, the model that the members started from")
        if rule.weights is not None:
            if not method.takes_weights:
                takers = ", ".join(name for name, m in all_methods().items() if m.takes_weights)
                raise UserError(f"{rule.method} takes no weights: use one of {takers}")
            if len(rule.weights) != count:
                raise UserError(
                    f"{len(rule.weights)} weights for {count} members: give one per member"
                )
        # Any numbers reveal weights and parameters that the method cannot work with.
        ones = [np.ones(1, np.float32)] * count
        with np.errstate(all="ignore"):
            method.combine(ones, rule.weights, ones[0], rule.parameters)
