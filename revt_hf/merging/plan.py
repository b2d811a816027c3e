"""What a merge does with every tensor, decided before a byte is read. No torch is imported."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.checkpoints.tensors import Checkpoint, TensorPlace, open_checkpoint
from revt_hf.errors import UserError
from revt_hf.merging.methods import METHODS, checked_parameters
from revt_hf.merging.selection import select

FLOATS = ("F64", "F32", "F16", "BF16")
_NAMED = 5


@dataclass(frozen=True)
class Rule:
    """A selection of tensors, and how they are combined.

    Attributes:
        select: see ``revt_hf.merging.selection``.
        method: a name of ``METHODS``.
        weights: one a member, for methods that take them.
        parameters: of the method.
    """

    select: str = "backbone"
    method: str = "mean"
    weights: tuple[float, ...] | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MergeSpec:
    """A merge: members in order, rules, and where everything else comes from.

    Attributes:
        members: folders, files or Hub ids.
        rules: of several that select a tensor the last one counts.
        head: number (from 1) of the member that tensors come from which no rule selects, and
            those that are not numbers with a fraction.
        base: the model that the members started from, for methods that need it.
    """

    members: tuple[str, ...]
    rules: tuple[Rule, ...] = (Rule(),)
    head: int = 1
    base: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values; ``spec_from_json`` reads them back."""
        return {
            "rules": [{**asdict(rule), "parameters": dict(rule.parameters)} for rule in self.rules],
            "head": self.head,
        }


@dataclass(frozen=True)
class Source:
    """A member or the base: where the tensors of the plan's items lie in its files."""

    label: str
    folder: Path | None
    files: tuple[Path, ...]
    originals: tuple[Path, ...]
    file: NDArray[np.int64]
    offset: NDArray[np.int64]
    # Only where it is not the first member's.
    dtypes: Mapping[int, str]


@dataclass(frozen=True)
class Item:
    """One tensor of the result; ``rule`` is None for a copy of the head member's."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    rule: int | None


@dataclass(frozen=True)
class Plan:
    """Every tensor of the result in the order of the first member's file."""

    spec: MergeSpec
    sources: tuple[Source, ...]
    base: Source | None
    items: tuple[Item, ...]

    def lines(self) -> list[str]:
        """The plan in words: what is merged and copied, from whom."""
        head = self.spec.members[self.spec.head - 1]
        lines = [
            f"member {n}: {label}{'  (head)' if n == self.spec.head else ''}"
            for n, label in enumerate(self.spec.members, 1)
        ]
        if self.base is not None:
            lines.append(f"base: {self.base.label}")
        for number, rule in enumerate(self.spec.rules):
            weights = f", weights {list(rule.weights)}" if rule.weights else ""
            extra = "".join(f", {key} {value:g}" for key, value in rule.parameters.items())
            lines.append(
                f"{rule.method} of '{rule.select}'{weights}{extra}: {self._amount(number)}"
            )
        lines.append(f"copied from {head}: {self._amount(None)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """What ``--dry-run --json`` writes."""
        return {
            "members": list(self.spec.members),
            "base": self.spec.base,
            **self.spec.to_json(),
            "tensors": [
                {
                    "name": item.name,
                    "dtype": item.dtype,
                    "shape": list(item.shape),
                    "rule": item.rule,
                }
                for item in self.items
            ],
        }

    def _amount(self, rule: int | None) -> str:
        chosen = [item for item in self.items if item.rule == rule]
        return f"{len(chosen)} tensors, {sum(item.count for item in chosen):,} parameters"


def check_spec(spec: MergeSpec) -> None:
    """All that can be said of a merge before its members are opened.

    Raises:
        UserError: too few members, no such head, method or parameter, or a rule that does not
            fit the number of members.
    """
    if len(spec.members) < 2:
        raise UserError("a merge needs at least two members")
    if not 1 <= spec.head <= len(spec.members):
        raise UserError(f"head is the number of a member, 1 to {len(spec.members)}: {spec.head}")
    if not spec.rules:
        raise UserError("a merge needs at least one rule")
    for rule in spec.rules:
        if rule.method not in METHODS:
            raise UserError(
                f"unknown merge method '{rule.method}': use one of {', '.join(METHODS)}"
            )
        method = METHODS[rule.method]
        checked_parameters(method, rule.parameters)
        low, high = method.members
        if len(spec.members) < low or (high is not None and len(spec.members) > high):
            wanted = f"{low}" if low == high else f"{low} to {high}" if high else f"{low} or more"
            raise UserError(f"{rule.method} takes {wanted} members, not {len(spec.members)}")
        if method.needs_base and spec.base is None:
            raise UserError(f"{rule.method} needs a base, the model that the members started from")
        if rule.weights is not None and not method.takes_weights:
            takers = ", ".join(name for name, known in METHODS.items() if known.takes_weights)
            raise UserError(f"{rule.method} takes no weights: use one of {takers}")
        if rule.weights is not None and len(rule.weights) != len(spec.members):
            raise UserError(
                f"{len(rule.weights)} weights for {len(spec.members)} members: give one a member"
            )


def make_plan(spec: MergeSpec, stack: ExitStack, quiet: bool = False) -> Plan:
    """Open all members, compare them, and decide on every tensor.

    Args:
        spec: what to merge.
        stack: closes temporary files of members that are torch files.
        quiet: no progress bars while the Hub is read.

    Raises:
        UserError: a member that cannot be read or does not match the first one (the differences
            are named), a rule that does not fit the members, or a selection of nothing.
    """
    check_spec(spec)
    first = _opened(spec.members[0], stack, quiet)
    rule_of = _rules(spec, list(first.places))
    items = tuple(
        Item(name, place.dtype, place.shape, int(np.prod(place.shape, dtype=np.int64)), rule)
        for name, place in first.places.items()
        for rule in [rule_of.get(name) if place.dtype in FLOATS else None]
    )
    sources = [_source(first, first.places)]
    for label in spec.members[1:]:
        other = _opened(label, stack, quiet)
        _check_same(first, other, first.places)
        sources.append(_source(other, first.places))
    base = None
    if spec.base is not None:
        other = _opened(spec.base, stack, quiet)
        needed = {
            item.name: first.places[item.name]
            for item in items
            if item.rule is not None and METHODS[spec.rules[item.rule].method].needs_base
        }
        _check_same(first, other, needed, extra_is_fine=True)
        base = _source(other, first.places)
    return Plan(spec, tuple(sources), base, items)


def _opened(label: str, stack: ExitStack, quiet: bool) -> Checkpoint:
    checkpoint = open_checkpoint(label, quiet)
    # Only temporary files need an end; holding on to all others would take memory a member.
    if checkpoint.files != checkpoint.originals:
        stack.enter_context(checkpoint)
    return checkpoint


def _rules(spec: MergeSpec, names: Sequence[str]) -> dict[str, int]:
    """Which rule each selected tensor follows."""
    rule_of: dict[str, int] = {}
    for number, rule in enumerate(spec.rules):
        rule_of.update(dict.fromkeys(select(rule.select, names), number))
    return rule_of


def _source(checkpoint: Checkpoint, first: Mapping[str, TensorPlace]) -> Source:
    places = [checkpoint.places.get(name) for name in first]
    number = {path: at for at, path in enumerate(checkpoint.files)}
    return Source(
        checkpoint.label,
        checkpoint.folder,
        checkpoint.files,
        checkpoint.originals,
        np.array([number[place.file] if place else -1 for place in places]),
        np.array([place.offset if place else -1 for place in places]),
        {
            at: place.dtype
            for at, (place, model) in enumerate(zip(places, first.values(), strict=True))
            if place is not None and place.dtype != model.dtype
        },
    )


def _check_same(
    first: Checkpoint,
    other: Checkpoint,
    wanted: Mapping[str, TensorPlace],
    extra_is_fine: bool = False,
) -> None:
    extra = [] if extra_is_fine else sorted(other.places.keys() - wanted.keys())
    problems = [
        *(f"{name} is missing" for name in sorted(wanted.keys() - other.places.keys())),
        *(f"{name} is extra" for name in extra),
        *(
            f"{name} is {list(other.places[name].shape)}, not {list(place.shape)}"
            for name, place in sorted(wanted.items())
            if name in other.places and other.places[name].shape != place.shape
        ),
        *(
            f"{name} is {other.places[name].dtype}, not {place.dtype}"
            for name, place in sorted(wanted.items())
            if name in other.places
            and other.places[name].dtype != place.dtype
            and not {other.places[name].dtype, place.dtype} <= set(FLOATS)
        ),
    ]
    if problems:
        listed = "; ".join(problems[:_NAMED])
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(f"{other.label} does not match {first.label}: {listed}{more}")
