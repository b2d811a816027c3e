"""Rows of the table of results: groups of networks, their means, and what cannot be averaged."""

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.labels import SUBSETS
from revt_hf.evaluation.result import Result
from revt_hf.results.entries import Entry
from revt_hf.results.paper import SOURCES, PaperRow, paper_row
from revt_hf.results.summary import Spread

MEAN = "mean of targets"


def check_subset(classes: str | None) -> None:
    """Refuse a class subset that does not exist.

    Raises:
        UserError: it is neither None nor in ``SUBSETS``.
    """
    if classes is not None and classes not in SUBSETS:
        raise UserError(f"unknown classes '{classes}': use one of {', '.join(SUBSETS)}")


@dataclass(frozen=True)
class TableOptions:
    """What a table shows.

    Attributes:
        classes: a class subset to average over; None is all 19.
        protocol: only evaluations by the protocol of this name; None is all.
        per_model: a row for each network, not for each group.
        paper: also the paper's rows that nobody measured, of this source or of all.
        cost: also parameters, FLOPs, speed and memory.

    Raises:
        UserError: there is no such subset, or the paper has no such source.
    """

    classes: str | None = None
    protocol: str | None = None
    per_model: bool = False
    paper: str | None = None
    cost: bool = False

    def __post_init__(self) -> None:
        check_subset(self.classes)
        sources = (*SOURCES, "all")
        if self.paper is not None and self.paper not in sources:
            raise UserError(f"--paper '{self.paper}': use one of {', '.join(sources)}")


@dataclass(frozen=True)
class Column:
    """A domain: its label, whether it is a source-val, and whether the paper has numbers."""

    label: str
    is_source: bool = False
    has_paper: bool = False


@dataclass(frozen=True)
class TableRow:
    """A group of networks; without any it is a row of the paper that nobody measured.

    Attributes:
        title: of the row.
        entries: its networks.
        kind: of all of them.
        paper: the row of the paper's table that they are to be compared with.
        cells: mIoU by the domain's label, and by ``MEAN``.
        best: the columns in which no row has a better number.
    """

    title: str
    entries: tuple[Entry, ...] = ()
    kind: str | None = None
    paper: PaperRow | None = None
    cells: Mapping[str, Spread] = field(default_factory=dict)
    best: frozenset[str] = frozenset()

    @property
    def size(self) -> str | None:
        """Of the SegFormers, if it was said."""
        if self.entries:
            return self.entries[0].result.size
        return self.paper.size if self.paper else None

    @property
    def count(self) -> int:
        """How many networks it is the mean of."""
        return len(self.entries)

    def paper_scores(self, classes: str | None) -> dict[str, float]:
        """The paper's mIoU in percent by the domain's label, where it is over these classes."""
        if self.paper is None or not self.paper.over(classes):
            return {}
        return self.paper.scores

    @property
    def selected_on(self) -> Literal["source", "target"] | None:
        """Whether its networks were selected, and on what."""
        chosen = [entry.selected for entry in self.entries if entry.selected is not None]
        if not chosen:
            return None
        return "target" if any(selected.target for selected in chosen) else "source"

    def cost(self, name: str) -> float | None:
        """The mean of a field of ``Cost`` over the networks that have it."""
        values = [getattr(entry.cost, name, None) for entry in self.entries]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None


@dataclass(frozen=True)
class ResultTable:
    """Networks that were scored by one protocol and trained on the same source.

    Attributes:
        protocol: the one they were scored by.
        protocol_title: its name and values.
        sources: labels of the source-val splits, if some were scored.
        classes: the class subset, if it is one.
        columns: source-val first.
        rows: in order of their kind.
        has_mean: whether there is a mean of several targets.
        costs: whether to show costs.
        notes: sentences to stand below.
    """

    protocol: Protocol
    protocol_title: str
    sources: tuple[str, ...]
    classes: str | None
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    has_mean: bool = False
    costs: bool = False
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all domains."""
        return tuple(column.label for column in self.columns)

    @property
    def targets(self) -> tuple[str, ...]:
        """The labels of the domains that are no source-val."""
        return tuple(column.label for column in self.columns if not column.is_source)

    @property
    def caption(self) -> str:
        """What the numbers are."""
        parts = ["mIoU (%)" + (f" over {self.classes}" if self.classes else "")]
        parts += [f"source {', '.join(self.sources)}"] if self.sources else []
        return ", ".join([*parts, f"protocol {self.protocol_title}"])


def row_of(
    entries: Sequence[Entry], labels: Sequence[str], targets: Sequence[str], options: TableOptions
) -> TableRow:
    """The mean of networks on every domain.

    Args:
        entries: the networks, at least one.
        labels: of all domains.
        targets: those that the last column is the mean of, if they are several.
        options: see :class:`TableOptions`.

    Raises:
        UserError: the networks were scored on other images or labels, or one is there twice.
    """
    first = entries[0].result
    _check_averaging(entries)
    cells = {}
    for label in labels:
        scores = [entry.scores[label] for entry in entries if label in entry.scores]
        values = [score.over(options.classes) for score in scores]
        present = tuple(value for value in values if value is not None)
        if present:
            cells[label] = Spread(present)
    means = [_mean(entry, targets, options.classes) for entry in entries]
    complete = tuple(mean for mean in means if mean is not None)
    # Means over different domains would not be comparable.
    if len(targets) > 1 and len(complete) == len(means):
        cells[MEAN] = Spread(complete)
    return TableRow(
        first.model if options.per_model else first.row,
        tuple(entries),
        first.kind,
        _paper_row(first),
        cells,
    )


def _paper_row(result: Result) -> PaperRow | None:
    key = result.paper
    if key is None:
        return None
    try:
        return paper_row(key.source, key.size, key.methods)
    except UserError as error:
        raise UserError(f"{result.path}: paper: {error}") from error


def _mean(entry: Entry, targets: Sequence[str], classes: str | None) -> float | None:
    values = [entry.scores[label].over(classes) for label in targets if label in entry.scores]
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if targets and len(present) == len(targets) else None


def _check_averaging(entries: Sequence[Entry]) -> None:
    """Refuse a mean over numbers that are not of the same kind."""
    for label in dict.fromkeys(label for entry in entries for label in entry.scores):
        scored = [entry for entry in entries if label in entry.scores]
        names: dict[Hashable, Entry] = {}
        for entry in scored:
            first, one = scored[0], entry.result
            what = f"{not_averaged(first, entry, label)}: "
            images = [each.scores[label].images for each in (first, entry)]
            if images[0] != images[1]:
                raise UserError(f"{what}{images[0]} and {images[1]} images; keep one")
            encodings = [each.scores[label].label_encoding for each in (first, entry)]
            if encodings[0] != encodings[1]:
                raise UserError(
                    f"{what}label encodings {encodings[0]} and {encodings[1]}; keep one"
                )
            other = names.setdefault((one.model, one.seed, one.head), entry)
            if other is not entry:
                raise UserError(
                    f"{not_averaged(other, entry, label)}: two networks of one name; keep one"
                )
    _check_names(entries)


def _check_names(entries: Sequence[Entry]) -> None:
    """Refuse a row of which one name stands for other weights in some columns."""
    names: dict[Hashable, Entry] = {}
    for entry in entries:
        one = entry.result
        other = names.setdefault((one.model, one.seed, one.head), entry)
        if len({None, one.weights, other.result.weights}) > 2:
            raise UserError(
                f"{one.model} in {other.result.path} and in {one.path} are two networks of "
                "one name (their sha256 differ): keep one"
            )


def not_averaged(first: Entry, second: Entry, label: str) -> str:
    """How every refusal to average begins."""
    return (
        f"{first.called(label)} and {second.called(label)} cannot be averaged in the row "
        f"'{first.result.row}' on {label}"
    )
