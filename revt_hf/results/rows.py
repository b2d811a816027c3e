"""Rows of a table: results of a network joined, groups of them averaged or refused."""

import statistics
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

from revt_hf.core.errors import UserError
from revt_hf.data.label_space import SUBSETS
from revt_hf.evaluation.result import Cost, DomainScore, Result, Selected
from revt_hf.results.layout import CALIBRATIONS, Spread, mean_or_none
from revt_hf.results.published import REVT, PublishedRow, paper_row

MEAN = "mean of targets"
_KINDS = ("init", "member", "merge", "recalibrated", "refit", "ensemble", "selection")
# Of rows that were selected on one.
MARKS: dict[str | None, str] = {"source": "\u2020", "target": "\u2021", None: ""}
Sources = tuple[str, ...]

T = TypeVar("T")
_measured = attrgetter("miou", "images", "label_encoding")


def check_subset(classes: str | None) -> None:
    if classes is not None and classes not in SUBSETS:
        raise UserError(f"unknown classes '{classes}': use one of {', '.join(SUBSETS)}")


@dataclass
class ScoredNetwork:
    """One network scored by one protocol, in however many files; ``result`` is the first."""

    result: Result
    scores: dict[str, DomainScore] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    cost: Cost | None = None
    selected: Selected | None = None

    @property
    def sources(self) -> Sources:
        return _sources(self.scores.values())

    @property
    def name(self) -> tuple[str, int | None, str | None]:
        """What tells it apart within a group."""
        return self.result.model, self.result.seed, self.result.head

    def add(self, result: Result) -> None:
        """Add the scores of a result; the same score counts once."""
        for score in result.scores:
            old = self.scores.setdefault(score.label, score)
            path = self.paths.setdefault(score.label, result.path)
            if _measured(old) != _measured(score):
                raise UserError(
                    f"{path} and {result.path} score {result.model} on {score.label} "
                    f"differently ({old.miou:.2f} and {score.miou:.2f}): keep one"
                )
            if old.calibration is None:
                self.scores[score.label] = score
        self.cost = self.cost or result.cost
        self.selected = self.selected or result.selected

    def called(self, label: str) -> str:
        """The network with the file that has its score on a domain."""
        return f"{self.result.model} in {self.paths[label]}"


def entries_of(results: Sequence[Result]) -> list[ScoredNetwork]:
    """One entry for each network and protocol, in order of appearance."""
    groups: dict[Hashable, list[Result]] = {}
    for one in results:
        key = (one.protocol, one.row, one.kind, one.model, one.seed, one.head, one.weights)
        groups.setdefault((*key, one.size, one.paper, repr(one.mapping)), []).append(one)
    entries = []
    for group in groups.values():
        # Ensembles of two experiments may have one name; their sources tell them apart.
        for part in by_source(group, [_sources(one.scores) for one in group]).values():
            entries.append(ScoredNetwork(part[0]))
            for result in part:
                entries[-1].add(result)
    return entries


def _sources(scores: Iterable[DomainScore]) -> Sources:
    return tuple(sorted({score.label for score in scores if score.is_source}))


def by_source(items: Sequence[T], sources: Sequence[Sources]) -> dict[Sources, list[T]]:
    """Items by what they were trained on; those that do not tell join the others if they can."""
    known = {source for source in sources if source}
    unknown = next(iter(known)) if len(known) == 1 else ()
    parts: dict[Sources, list[T]] = {}
    for item, source in zip(items, sources, strict=True):
        parts.setdefault(source or unknown, []).append(item)
    return parts


def protocol_name(result: Result) -> str | None:
    """The name of a protocol: that of the preset with its values, or the experiment's own."""
    # "recipe" is another protocol in each experiment.
    own = None if result.protocol_name == "recipe" else result.protocol_name
    return result.protocol.preset or own


def by_protocol(results: Sequence[Result], name: str | None) -> list[Result]:
    """The results by the protocol of a name; None is all."""
    names = [{one.protocol_name, protocol_name(one)} - {None} for one in results]
    chosen = [
        one for one, known in zip(results, names, strict=True) if name is None or name in known
    ]
    if not chosen and results:
        others = ", ".join(sorted({text for known in names for text in known if text}))
        raise UserError(f"no evaluation is by the protocol '{name}', only by {others}")
    return chosen


@dataclass(frozen=True)
class TableRow:
    """A group of networks; without any it is published and not measured here."""

    title: str
    entries: tuple[ScoredNetwork, ...] = ()
    kind: str | None = None
    size: str | None = None
    published: PublishedRow | None = None
    cells: Mapping[str, Spread] = field(default_factory=dict)

    @property
    def is_compared(self) -> bool:
        """Whether it is another method's."""
        return self.published is not None and self.published.name != REVT

    @property
    def order(self) -> tuple[bool, str, int]:
        """Rows go by size, then by kind; those that nobody measured here come last."""
        # A network of no kind is listed among the members.
        kind = _KINDS.index(self.kind or "member") if self.entries else len(_KINDS)
        return self.is_compared, self.size or "", kind

    @property
    def selections(self) -> list[Selected]:
        return [entry.selected for entry in self.entries if entry.selected is not None]

    @property
    def selected_on(self) -> str | None:
        """``source`` or ``target`` where its networks were selected on one."""
        if not self.selections:
            return None
        return "target" if any(one.target for one in self.selections) else "source"

    @property
    def how_selected(self) -> str:
        on = dict.fromkeys(label for one in self.selections for label in one.on)
        counts = sorted({one.candidates for one in self.selections})
        return f"{', '.join(on)}; the best of {' or '.join(map(str, counts))}"

    def with_size(self) -> "TableRow":
        """The same with its size in the title."""
        if not (self.entries and self.size):
            return self
        return replace(self, title=f"{self.title}, SegFormer-{self.size.upper()}")

    def cost(self, name: str) -> float | None:
        """The mean of a field of ``Cost`` over the networks that have it."""
        values = [getattr(entry.cost, name, None) for entry in self.entries]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    def calibration(self, labels: Sequence[str]) -> dict[str, Spread]:
        """The fields of ``Calibration``, means over splits of the networks that have them all."""
        found = {}
        for name, *_ in CALIBRATIONS:
            means = []
            for entry in self.entries:
                scores = [entry.scores.get(label) for label in labels]
                each = [getattr(one and one.calibration, name, None) for one in scores]
                means.append(mean_or_none(each))
            if known := tuple(mean for mean in means if mean is not None):
                found[name] = Spread(known)
        return found


def notes_on_selections(rows: Iterable[TableRow]) -> Iterator[str]:
    """One note for all rows that were selected in the same way."""
    alike: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.selected_on is not None:
            alike.setdefault((row.selected_on, row.how_selected), []).append(row.title)
    for (kind, how), titles in sorted(alike.items(), key=lambda item: item[0][0]):
        on = f"selected on {how}"
        if kind == "target":
            on = f"selected on a target domain: not a generalisation result ({how})"
        yield f"{MARKS[kind]} {'; '.join(titles)}: {on}."


def row_of(
    entries: Sequence[ScoredNetwork],
    labels: Sequence[str],
    targets: Sequence[str],
    classes: str | None,
    title: str,
) -> TableRow:
    _check_averaging(entries)
    found = [
        {label: one.scores[label].over(classes) for label in labels if label in one.scores}
        for one in entries
    ]
    known = [{label: v for label, v in one.items() if v is not None} for one in found]
    # Means over different domains would not be comparable.
    if len(targets) > 1 and all(set(targets) <= set(one) for one in known):
        for one in known:
            one[MEAN] = statistics.fmean(one[label] for label in targets)
    cells = {}
    for label in (*labels, MEAN):
        values = tuple(one[label] for one in known if label in one)
        if values:
            cells[label] = Spread(values)
    first = entries[0].result
    return TableRow(title, tuple(entries), first.kind, first.size, _paper_row(first), cells)


def _paper_row(result: Result) -> PublishedRow | None:
    key = result.paper
    try:
        return paper_row(key.source, key.size, key.methods) if key else None
    except UserError as error:
        raise UserError(f"{result.path}: paper: {error}") from error


def _check_averaging(entries: Sequence[ScoredNetwork]) -> None:
    """Refuse a mean over numbers that are not of the same kind."""
    for label in dict.fromkeys(label for entry in entries for label in entry.scores):
        first, *others = [entry for entry in entries if label in entry.scores]
        names = {first.name: first}
        for entry in others:
            what = f"{_not_averaged(first, entry, label)}: "
            old, new = first.scores[label], entry.scores[label]
            if old.images != new.images:
                raise UserError(f"{what}{old.images} and {new.images} images; keep one")
            if old.label_encoding != new.label_encoding:
                raise UserError(
                    f"{what}label encodings {old.label_encoding} and {new.label_encoding}; keep one"
                )
            other = names.setdefault(entry.name, entry)
            if other is not entry:
                raise UserError(
                    f"{_not_averaged(other, entry, label)}: two networks of one name; keep one"
                )
    # One name must not stand for different weights in different columns.
    known: dict[Hashable, Result] = {}
    for entry in entries:
        one, same = entry.result, known.setdefault(entry.name, entry.result)
        if None not in (one.weights, same.weights) and one.weights != same.weights:
            raise UserError(
                f"{one.model} in {same.path} and in {one.path} are two networks of one name "
                "(their sha256 differ): keep one"
            )
        if one.mapping != entries[0].result.mapping:
            what = f"{entries[0].result.path} and {one.path}"
            raise UserError(f"{what}: {one.row} is by two mappings of one name; keep one")


def check_names_of_protocols(entries: Sequence[ScoredNetwork]) -> None:
    """Refuse one name for two protocols where a reader would take them for one."""
    seen: dict[Hashable, ScoredNetwork] = {}
    for entry in entries:
        one = entry.result
        for label in entry.scores:
            key = (one.protocol_name, entry.sources, one.row, one.size, label)
            first = seen.setdefault(key, entry)
            if one.protocol_name is not None and first.result.protocol != one.protocol:
                raise UserError(
                    f"{_not_averaged(first, entry, label)}: their protocol '{one.protocol_name}' "
                    f"is {first.result.protocol.text} and {one.protocol.text}; keep one"
                )


def _not_averaged(first: ScoredNetwork, second: ScoredNetwork, label: str) -> str:
    return (
        f"{first.called(label)} and {second.called(label)} cannot be averaged in the row "
        f"'{first.result.row}' on {label}"
    )
