"""What a merge does with every tensor, decided before a byte is read. No torch is imported."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.families import OF_BACKBONES, is_statistic, mean_beside
from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES, TensorInfo
from revt_hf.checkpoints.hub_parts import Place
from revt_hf.checkpoints.names import listed
from revt_hf.checkpoints.tensors import WEIGHTS_FILE
from revt_hf.core.errors import UserError
from revt_hf.merging import members
from revt_hf.merging.layer_weights import depths
from revt_hf.merging.members import NOWHERE, SIZE_FIELDS, MergeInput, open_source
from revt_hf.merging.record import ImageSize
from revt_hf.merging.registry import MergeSpec, check_spec, find_method
from revt_hf.merging.selection import select

# How transformers calls the classes of networks whose outputs are logits of classes.
_SEGMENTER = "ForSemanticSegmentation"
# Each model that is read in parts holds a connection; httpx opens at most 100.
_MOST_IN_PARTS = 64


@dataclass(frozen=True)
class MergeItem(TensorInfo):
    """A tensor of the result in the dtype of the head's member; without a rule its exact copy.

    ``offset`` is from the end of the file's header, ``weights`` are the members'.
    """

    rule: int | None
    weights: tuple[float, ...] | None

    @property
    def count(self) -> int:
        return self.nbytes // ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class Run:
    """Items ``first`` to ``last`` (exclusive) of one rule, neighbours in every file."""

    first: int
    last: int
    rule: int | None
    count: int


@dataclass(frozen=True)
class MergePlan:
    """Every tensor of the result in the order of the first member's file."""

    spec: MergeSpec
    sources: tuple[MergeInput, ...]
    base: MergeInput | None
    items: tuple[MergeItem, ...]

    @property
    def inputs(self) -> list[MergeInput]:
        """The members, then the base if there is one."""
        return [*self.sources, *([self.base] if self.base else [])]

    def by_authority(self) -> list[MergeInput]:
        """The members, the head's first: the others fill in what it leaves open."""
        return [self.sources[self.spec.head - 1], *self.sources]

    def image_size(self, source: MergeInput) -> ImageSize | None:
        """A member's image size, if the result has another one."""
        taken = next((one for one in self.by_authority() if one.processor), None)
        if taken is None or taken.processor is None or source.processor is None:
            return None
        own, result = (
            {key: fields[key] for key in SIZE_FIELDS if key in fields}
            for fields in (source.processor, taken.processor)
        )
        number = [one is taken for one in self.sources].index(True) + 1
        return ImageSize(own, result, number) if own != result else None

    def places(self, source: MergeInput) -> Iterator[Place]:
        """What a merge reads of a source's files, in order."""
        for at, item in enumerate(self.items):
            if source.offset[at] != NOWHERE and item.count and self._reads(source, item):
                size = item.count * ITEM_SIZES[source.dtypes[at]]
                yield int(source.file[at]), int(source.offset[at]), size

    def _reads(self, source: MergeInput, item: MergeItem) -> bool:
        if item.rule is None:
            return source is self.sources[self.spec.head - 1]
        return source is not self.base or find_method(self.spec.rules[item.rule].method).needs_base

    def moved(self) -> list[str]:
        """A sentence on the bytes that came from the Hub, if any did."""
        found = [one.hub for one in self.inputs if one.hub is not None and one.hub.files]
        whole = self.hub_bytes()[1]
        received = sum(hub.received for hub in found)
        return [f"read {received:,} of {whole:,} bytes of weights from the Hub"] if found else []

    def hub_bytes(self) -> tuple[int, int]:
        """Bytes of weights that the merge moves from the Hub, and those of the whole files."""
        apart = [source for source in self.inputs if source.hub is not None and source.hub.files]
        sizes = [file.size for source in apart if source.hub for file in source.hub.files.values()]
        headers = sum(source.hub.received for source in apart if source.hub)
        return headers + sum(p[2] for source in apart for p in self.places(source)), sum(sizes)

    def remarks(self) -> list[str]:
        """Sentences on what members lose or lack."""
        found = []
        family = self.sources[0].family
        if family.generic:
            found.append(
                f"{family.model_class} is not known here: '{family.prefix}*' is taken for its "
                "encoder, everything else for its head"
            )
        for source in self.sources:
            if source.dropped:
                found.append(f"left out of {source.label}: {listed(source.dropped)}")
            if source.added:
                found.append(f"missing in {source.label}, 0 is used: {listed(source.added)}")
            size = self.image_size(source)
            if size is not None:
                other = self.sources[size.member - 1].label
                found.append(
                    f"image size of {source.label}: {_size_text(size.own)}; the merge uses that "
                    f"of {other}: {_size_text(size.taken)}"
                )
        return found

    def check_unchanged(self) -> None:
        """Refuse the result if a file changed while it was read."""
        for source in self.inputs:
            source.stamps.check()

    def lines(self) -> list[str]:
        """What is merged and copied, from which member, as text."""
        head = self.sources[self.spec.head - 1]
        lines = [
            f"member {number}: {source}{'  (head)' if source is head else ''}"
            for number, source in enumerate(self.sources, 1)
        ]
        lines += [f"base: {self.base}"] if self.base else []
        lines += self.remarks()
        parts = [*enumerate(map(str, self.spec.rules)), (None, f"copied from {head}")]
        for rule, text in parts:
            counts = [item.count for item in self.items if item.rule == rule]
            lines.append(f"{text}: {len(counts)} tensors, {sum(counts):,} parameters")
        moved, whole = self.hub_bytes()
        return (
            [*lines, f"from the Hub: {moved:,} of {whole:,} bytes of weights"] if whole else lines
        )

    def to_json(self) -> dict[str, Any]:
        """What ``--dry-run --json`` writes."""
        return {
            "members": list(self.spec.members),
            "base": self.spec.base,
            "rules": [rule.to_json() for rule in self.spec.rules],
            "head": self.spec.head,
            "hub_bytes": dict(zip(("moved", "whole"), self.hub_bytes(), strict=True)),
            "tensors": [
                {"name": one.name, "dtype": one.dtype, "shape": list(one.shape), "rule": one.rule}
                for one in self.items
            ],
        }

    def runs(self) -> Iterator[Run]:
        """The items as runs, in order."""
        firsts = (at for at in range(len(self.items)) if not at or not self._continues(at))
        for first, last in itertools.pairwise(itertools.chain(firsts, [len(self.items)])):
            items = self.items[first:last]
            yield Run(first, last, items[0].rule, sum(item.count for item in items))

    def _continues(self, at: int) -> bool:
        """Whether an item can be read and merged together with the one before."""
        before, item = self.items[at - 1], self.items[at]
        if (before.rule, before.dtype, before.weights) != (item.rule, item.dtype, item.weights):
            return False
        if item.rule is not None:
            method = find_method(self.spec.rules[item.rule].method)
            paired = method.needs_means and (is_statistic(before.name) or is_statistic(item.name))
            if method.scope == "tensor" or paired:
                return False
        return all(
            source.dtypes[at] == source.dtypes[at - 1]
            and source.file[at] == source.file[at - 1]
            and source.offset[at]
            == source.offset[at - 1] + before.count * ITEM_SIZES[source.dtypes[at]]
            for source in self.inputs
            if source.offset[at - 1] != NOWHERE or source.offset[at] != NOWHERE
        )


def make_plan(
    spec: MergeSpec, stack: ExitStack, quiet: bool = False, parts: bool = False
) -> MergePlan:
    """Open and compare all members, and decide on every tensor; ``stack`` closes their files.

    With ``parts`` members' weights may stay on the Hub: read each of ``places`` once then.
    """
    check_spec(spec)
    parts = parts and len(spec.members) < _MOST_IN_PARTS
    names = spec.names or (None,) * len(spec.members)
    first, order = open_source(spec.members[0], stack, quiet, name=names[0], parts=parts)
    family = first.family
    if family.generic and not family.model_class.endswith(_SEGMENTER):
        raise UserError(f"{first.label} is a {family.title}, which is no segmenter")
    sources = [first]
    for label, name in zip(spec.members[1:], names[1:], strict=True):
        other, held = open_source(label, stack, quiet, order, name, parts=parts)
        for source in sources:
            members.check_agreement(source, other)
        members.check_same_tensors(first, order, other, held)
        sources.append(other)
    rule_of: dict[str, int] = {}
    for number, rule in enumerate(spec.rules):
        rule_of.update(dict.fromkeys(select(rule.select, list(order), family), number))
    by_depth = [name for name, number in rule_of.items() if spec.rules[number].layer_weights]
    depth_of = depths(list(order), by_depth, family) if by_depth else {}
    head, items, end = sources[spec.head - 1], list[MergeItem](), 0
    for (name, place), dtype in zip(order.items(), head.dtypes, strict=True):
        size = math.prod(place.shape) * ITEM_SIZES[dtype]
        used = rule_of.get(name) if place.dtype in FLOATS else None
        rule, depth = spec.rules[used or 0], depth_of.get(name, 1.0)
        weights = None if used is None else rule.weights_at(depth, len(sources))
        merged = MergeItem(Path(WEIGHTS_FILE), name, dtype, place.shape, end, size, used, weights)
        items.append(merged)
        end += size
    _check_statistics(spec, items)
    with_head, base = list(sources), None
    if spec.base is not None:
        base, held = open_source(spec.base, stack, quiet, order, None, False, family, parts)
        needed = {
            item.name: order[item.name]
            for item in items
            if item.rule is not None and find_method(spec.rules[item.rule].method).needs_base
        }
        lacking = needed.keys() - held.keys()
        if lacking and all(OF_BACKBONES in name for name in lacking):
            chosen = f"re:{first.family.encoder_pattern}(?!{OF_BACKBONES})"
            raise UserError(
                f"{base.label} lacks {OF_BACKBONES}*, as encoders by themselves do: merge without "
                f"them (--select '{chosen}'), and they are copied with the head"
            )
        has_head = not all(map(first.family.in_encoder, needed))
        for source in sources:
            members.check_agreement(source, base, encoder_only=not has_head)
        members.check_same_tensors(first, needed, base, held, extra_is_fine=True)
        with_head += [base] if has_head else []
    rows = first.family.has_class_rows
    mixed = any(item.rule is not None and rows(item.name) for item in items)
    members.check_rows_are_named(with_head if mixed else [head], with_head)
    return MergePlan(spec, tuple(sources), base, tuple(items))


def _check_statistics(spec: MergeSpec, items: Sequence[MergeItem]) -> None:
    """Refuse to take means and variances apart with a method that merges them together."""
    rule_of = {item.name: item.rule for item in items}
    for variance, rule in rule_of.items():
        mean = mean_beside(variance)
        other = rule_of.get(mean) if mean else rule
        methods = [spec.rules[used].method for used in (rule, other) if used is not None]
        for method in methods if rule != other else ():
            if find_method(method).needs_means:
                raise UserError(
                    f"{method} merges {variance} together with {mean}: select both or neither"
                )


def _size_text(fields: Mapping[str, Any]) -> str:
    # Older files have one number, or none.
    given = fields.get("size")
    sides = given.items() if isinstance(given, Mapping) else [("size", given)]
    size = ", ".join(f"{key} {value}" for key, value in sides)
    return size if fields.get("do_resize", True) else f"{size}, not resized"
