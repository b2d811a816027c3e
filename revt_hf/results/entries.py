"""Networks as a table counts them: one entry each, whatever number of files speaks of it."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.results.collect import Cost, DomainScore, Measurement, Selected

Thing = TypeVar("Thing")


@dataclass
class Entry:
    """One network scored by one protocol.

    Attributes:
        measurement: the first one that speaks of it.
        scores: by the domain's label.
        paths: the file of each score.
        cost: of the network, if it was measured.
        selection: how the network was chosen, if it was.
    """

    measurement: Measurement
    scores: dict[str, DomainScore] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    cost: Cost | None = None
    selection: Selected | None = None

    @property
    def views(self) -> Protocol:
        """The protocol's values."""
        return self.measurement.views

    @property
    def sources(self) -> tuple[str, ...]:
        """The labels of the source-val splits, sorted."""
        return sources_of(self.scores.values())

    def add(self, measurement: Measurement) -> None:
        """Take over the scores of a measurement; the same score counts once.

        Raises:
            UserError: the network has another score on a domain already.
        """
        for row in measurement.results:
            old = self.scores.get(row.label)
            if old is not None and _measured(old) != _measured(row):
                raise UserError(
                    f"{self.paths[row.label]} and {measurement.path} score {measurement.model} on "
                    f"{row.label} differently ({old.miou:.2f} and {row.miou:.2f}): keep one"
                )
            if old is None:
                self.scores[row.label] = row
                self.paths[row.label] = measurement.path
        self.cost = self.cost or measurement.cost
        self.selection = self.selection or measurement.selection

    def called(self, label: str) -> str:
        """The network with the file that has its score on a domain, for messages."""
        return f"{self.measurement.model} in {self.paths[label]}"


def _measured(row: DomainScore) -> tuple[float, int, str | None]:
    return row.miou, row.images, row.label_encoding


def sources_of(rows: Iterable[DomainScore]) -> tuple[str, ...]:
    """The labels of those that are source-val, sorted."""
    return tuple(sorted({row.label for row in rows if row.is_source}))


def entries_of(measurements: Sequence[Measurement]) -> list[Entry]:
    """One entry for each network and protocol, in order of appearance.

    Raises:
        UserError: a network has two different scores on a domain.
    """
    groups: dict[Hashable, list[Measurement]] = {}
    for one in measurements:
        key = (one.views, one.group, one.kind, one.model, one.seed, one.head, one.sha256)
        groups.setdefault((*key, one.size, one.paper), []).append(one)
    entries = []
    for group in groups.values():
        # Ensembles of two experiments may have one name; their sources tell them apart.
        for part in by_source(group, [sources_of(one.results) for one in group]).values():
            entry = Entry(part[0])
            for measurement in part:
                entry.add(measurement)
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


def protocol_name(measurement: Measurement) -> str | None:
    """What a protocol is called: a known one by its values, another as its experiment says."""
    if measurement.views.preset is not None:
        return measurement.views.preset
    # "recipe" is another protocol in each experiment.
    return None if measurement.protocol_name == "recipe" else measurement.protocol_name
