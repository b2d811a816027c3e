"""What a merge does with every tensor, decided before a byte is read. No torch is imported."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from revt_hf.checkpoints.headers import FLOATS
from revt_hf.checkpoints.names import CLASS_ROWS, HEAD_PREFIX
from revt_hf.core.errors import UserError
from revt_hf.merging.agreement import (
    SIZE_FIELDS,
    check_agreement,
    check_rows_are_named,
    check_same_tensors,
)
from revt_hf.merging.methods import METHODS, checked_parameters
from revt_hf.merging.selection import select
from revt_hf.merging.sources import Source, open_source, remarks, source_of, with_dtypes


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
class Item:
    """One tensor of the result, of the dtype that the head's member has it in.

    ``rule`` is None for a copy of that member's, bit for bit.
    """

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

    def by_authority(self) -> list[Source]:
        """The members, the head's first: it says what the others leave open."""
        return [self.sources[self.spec.head - 1], *self.sources]

    def left(self, source: Source) -> dict[str, Any]:
        """What is not taken from a member as it is, as its entry in the record says it."""
        found: dict[str, Any] = {"dropped": list(source.dropped), "added": list(source.added)}
        of = next((one for one in self.by_authority() if one.says.processor), None)
        if of is not None and source.says.processor is not None:
            own, taken = (
                {key: (one.says.processor or {})[key] for key in SIZE_FIELDS}
                for one in (source, of)
            )
            if own != taken:
                member = [one is of for one in self.sources].index(True) + 1
                found["image_size"] = {"own": own, "taken": taken, "member": member}
        return {key: value for key, value in found.items() if value}

    def remarks(self) -> list[str]:
        """What is not taken from members as it is, in words."""
        labels = [one.label for one in self.sources]
        return [line for one in self.sources for line in remarks(one.label, self.left(one), labels)]

    def check_unchanged(self) -> None:
        """Refuse what was read if a member's or the base's files are not what they were.

        Raises:
            UserError: one changed; it is named.
        """
        for source in (*self.sources, *([self.base] if self.base else [])):
            source.stamps.check()

    def lines(self) -> list[str]:
        """The plan in words: what is merged and copied, from whom."""
        head = self.spec.members[self.spec.head - 1]
        lines = [
            f"member {n}: {label}{'  (head)' if n == self.spec.head else ''}"
            for n, label in enumerate(self.spec.members, 1)
        ]
        if self.base is not None:
            lines.append(f"base: {self.base.label}")
        lines += self.remarks()
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
        _try(rule, len(spec.members))


def _try(rule: Rule, members: int) -> None:
    """Weights or parameters that a method cannot work with show on any numbers."""
    if rule.weights is not None and not np.isfinite(rule.weights).all():
        raise UserError(f"{rule.method}: weights have to be finite, not {list(rule.weights)}")
    method = METHODS[rule.method]
    parameters: dict[str, Any] = dict(checked_parameters(method, rule.parameters))
    if method.stochastic:
        parameters["salt"] = ""
    ones = [np.ones(1, np.float32)] * (members + 1)
    weights = np.array(rule.weights) if rule.weights is not None else None
    base = ones[0] if method.needs_base else None
    with np.errstate(all="ignore"):
        method.function(ones[:members], weights, base, **parameters)


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
    first, says = open_source(spec.members[0], stack, quiet)
    sources = [source_of(first, says, first.places)]
    for label in spec.members[1:]:
        other, says = open_source(label, stack, quiet)
        for source in sources:
            check_agreement(source.says, says)
        check_same_tensors(first, other, first.places)
        sources.append(source_of(other, says, first.places))
    rule_of = _rules(spec, list(first.places))
    head = sources[spec.head - 1]
    items = tuple(
        Item(
            name,
            head.dtypes.get(at, place.dtype),
            place.shape,
            int(np.prod(place.shape, dtype=np.int64)),
            rule_of.get(name) if place.dtype in FLOATS else None,
        )
        for at, (name, place) in enumerate(first.places.items())
    )
    with_head = [source.says for source in sources]
    if spec.base is not None:
        base, says = open_source(spec.base, stack, quiet, whole=False)
        needed = {
            item.name: first.places[item.name]
            for item in items
            if item.rule is not None and METHODS[spec.rules[item.rule].method].needs_base
        }
        has_head = any(name.startswith(HEAD_PREFIX) for name in needed)
        for source in sources:
            check_agreement(source.says, says, encoder_only=not has_head)
        with_head += [says] if has_head else []
        check_same_tensors(first, base, needed, extra_is_fine=True)
        sources.append(source_of(base, says, first.places))
    mixed = any(item.rule is not None and item.name.startswith(CLASS_ROWS) for item in items)
    check_rows_are_named(with_head if mixed else [head.says], with_head)
    if head.dtypes:
        dtypes = [item.dtype for item in items]
        sources = [with_dtypes(source, first.places, dtypes) for source in sources]
    base_source = sources.pop() if spec.base is not None else None
    return Plan(spec, tuple(sources), base_source, items)


def _rules(spec: MergeSpec, names: Sequence[str]) -> dict[str, int]:
    """Which rule each selected tensor follows."""
    rule_of: dict[str, int] = {}
    for number, rule in enumerate(spec.rules):
        rule_of.update(dict.fromkeys(select(rule.select, names), number))
    return rule_of
