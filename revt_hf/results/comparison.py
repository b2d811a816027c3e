"""Published numbers beside ours: by what heading, with what notes, and as lines of CSV."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.label_space import CLASSES
from revt_hf.results.layout import COSTS
from revt_hf.results.published import IMAGES, REVT, PublishedRow
from revt_hf.results.rows import TableRow

# Of CSV, where others are compared.
PUBLISHED_FIELDS = ("published", "backbone", "second_hand", "reference")


def headed_scores(
    known: PublishedRow, protocol: Protocol, classes: str | None
) -> dict[str, tuple[str, float]]:
    """The numbers by domain, each with the heading of its column, which says how it was tested.

    Only numbers by ``protocol``, that of ours, are ``paper`` or ``published`` without more.
    """
    kind = "paper" if known.name == REVT else "published"
    part = kind if known.protocol == protocol else f"{kind}, {known.tested}"
    return {label: (part, value) for label, value in known.scores(classes).items()}


def check_classes(rows: Sequence[TableRow], labels: Collection[str]) -> None:
    """Refuse scores of ours on some domains over other classes than the 19 of published numbers."""
    for entry in (entry for row in rows for entry in row.entries):
        for label in entry.scores.keys() & {*labels}:
            classes = set(entry.scores[label].iou)
            if classes and classes != set(CLASSES):
                raise UserError(
                    f"--compare: {entry.called(label)} is scored on {label} over "
                    f"other classes ({len(classes)}) than published numbers, which "
                    "are over the 19 of Cityscapes: leave it out"
                )


def notes_on_ours(rows: Sequence[TableRow], labels: Collection[str]) -> Iterator[str]:
    """Where ours are on other images than published numbers, or labels may be mapped otherwise."""
    for label in sorted(labels):
        scores = [one.scores[label] for row in rows for one in row.entries if label in one.scores]
        numbers = sorted({score.images for score in scores} - {IMAGES[label]})
        if numbers:
            yield (
                f"{label}: ours on {' and '.join(map(str, numbers))} of its {IMAGES[label]} images."
            )
        maps = sorted({score.label_encoding or "not known" for score in scores})
        if label.startswith("mapillary/") and maps:
            yield (
                f"{label}: its classes are mapped to the 19 in several ways; ours by "
                f"{' and '.join(maps)}, others may have used another map."
            )


def notes_on_published(rows: Sequence[TableRow], protocol: Protocol) -> Iterator[str]:
    """Where the numbers of rows are from, and what they must not be compared with."""
    papers = [row.published for row in rows if row.published and not row.is_compared]
    if papers:
        yield (
            "paper: from the README of the original implementation, not measured here; "
            "ours: measured here."
        )
        if any(one.source == "synthia" for one in papers):
            yield "The paper does not say whether its SYNTHIA numbers average 16 or 19 classes."
    others = [row.published for row in rows if row.published and row.is_compared]
    if others:
        yield (
            "published: numbers of others, not measured here; ours: measured here by "
            f"{protocol.text}. Numbers under different headings were tested differently, and those "
            "under 'protocol not known' may have been: do not compare them with each other, nor "
            "models that were trained on different data."
        )
    references: dict[tuple[str, str, str], list[bool]] = {}
    for one in others:
        references.setdefault((one.method, one.reference, one.note), []).append(one.second_hand)
    for (method, reference, note), quoted in references.items():
        hand = "; second hand means quoted by others, not read there" if any(quoted) else ""
        yield f"{method}: {reference}{hand}.{f' {note}' if note else ''}"


def records(
    row: TableRow,
    common: Mapping[str, str],
    published: tuple[str, float] | None,
    compares: bool,
    cost: bool,
    calibrated: Sequence[str],
) -> Iterator[dict[str, str]]:
    """The line of CSV of a row and a domain (``common["label"]``), if it has a score there.

    That is mean and population std (percent), n, the paper's number, all values; the calibration
    is the mean over ``calibrated``. With ``compares`` there is what others published, and in
    their lines the protocol and the source are their own.
    """
    spread = row.cells.get(common["label"])
    if spread is None and published is None:
        return
    part, value = published or ("", None)
    line = {
        **common,
        "group": row.title,
        "kind": row.kind or "",
        "selected_on": row.selected_on or "",
        "mean": _number(spread.mean if spread else None),
        "std": _number(spread.std if spread else None),
        "n": str(len(spread.values) if spread else 0),
        "paper": f"{value:.2f}" if value is not None and part == "paper" else "",
        "values": " ".join(map(repr, spread.values if spread else ())),
    }
    known = row.published
    if compares:
        line |= dict.fromkeys(PUBLISHED_FIELDS, "")
    if known is not None and row.is_compared:
        line |= {
            "protocol": known.tested,
            "source": " ".join(known.sources),
            "kind": "published",
            "published": f"{value:.1f}",
            "backbone": known.backbone or "",
            "second_hand": str(known.second_hand).lower(),
            "reference": known.reference,
        }
    if cost:
        line |= {name: _number(row.cost(name)) for name, *_ in COSTS}
    if calibrated:
        line |= {name: _number(one.mean) for name, one in row.calibration(calibrated).items()}
    yield line


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
