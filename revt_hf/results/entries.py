"""Networks as a table counts them: one entry each, whatever number of files speaks of it."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Cost, DomainScore, Result, Selected

Thing = TypeVar("Thing")


@dataclass
class Entry:
    """One network scored by one protocol.

    Attributes:
        result: the first one of it.
        scores: by the domain's label.
        paths: the file of each score.
        cost: of the network, if it was measured.
        selected: how the network was chosen, if it was.
    """

    result: Result
    scores: dict[str, DomainScore] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    cost: Cost | None = None
    selected: Selected | None = None

    @property
    def protocol(self) -> Protocol:
        """The protocol it was scored by."""
        return self.result.protocol

    @property
    def sources(self) -> tuple[str, ...]:
        """The labels of the source-val splits, sorted."""
        return sources_of(self.scores.values())

    def add(self, result: Result) -> None:
        """Take over the scores of a result; the same score counts once.

        Raises:
            UserError: the network has another score on a domain already.
        """
        for row in result.scores:
            old = self.scores.get(row.label)
            if old is not None and _measured(old) != _measured(row):
                raise UserError(
                    f"{self.paths[row.label]} and {result.path} score {result.model} on "
                    f"{row.label} differently ({old.miou:.2f} and {row.miou:.2f}): keep one"
                )
            if old is None:
                self.scores[row.label] = row
                self.paths[row.label] = result.path
        self.cost = self.cost or result.cost
        self.selected = self.selected or result.selected

    def called(self, label: str) -> str:
        """The network with the file that has its score on a domain, for messages."""
        return f"{self.result.model} in {self.paths[label]}"


def _measured(row: DomainScore) -> tuple[float, int, str | None]:
    return row.miou, row.images, row.label_encoding


def sources_of(rows: Iterable[DomainScore]) -> tuple[str, ...]:
    """The labels of those that are source-val, sorted."""
    return tuple(sorted({row.label for row in rows if row.is_source}))


def entries_of(results: Sequence[Result]) -> list[Entry]:
    """One entry for each network and protocol, in order of appearance.

    Raises:
        UserError: a network has two different scores on a domain.
    """
    groups: dict[Hashable, list[Result]] = {}
    for one in results:
        key = (one.protocol, one.row, one.kind, one.model, one.seed, one.head, one.weights)
        groups.setdefault((*key, one.size, one.paper), []).append(one)
    entries = []
    for group in groups.values():
        # Ensembles of two experiments may have one name; their sources tell them apart.
        for part in by_source(group, [sources_of(one.scores) for one in group]).values():
            entry = Entry(part[0])
            for result in part:
                entry.add(result)
            entries.append(entry)
    return entries


def by_source(
    things: Sequence[Thing], sources: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], list[Thing]]:
    """Things by what they were trained on; those that do not say it join the others if they can.

    Args:
        things: in their order.
        sources: of each, the labels of its source-val splits; empty if it was not scored there.
    """
    known = {source for source in sources if source}
    unknown = next(iter(known)) if len(known) == 1 else ()
    parts: dict[tuple[str, ...], list[Thing]] = {}
    for thing, source in zip(things, sources, strict=True):
        parts.setdefault(source or unknown, []).append(thing)
    return parts


def protocol_name(result: Result) -> str | None:
    """What a protocol is called: a known one by its values, another as its experiment says."""
    if result.protocol.preset is not None:
        return result.protocol.preset
    # "recipe" is another protocol in each experiment.
    return None if result.protocol_name == "recipe" else result.protocol_name
