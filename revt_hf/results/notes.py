"""What a reader of a table must know: sentences to stand below it."""

from collections.abc import Iterator, Sequence

from revt_hf.evaluation.result import Selected
from revt_hf.results.rows import MEAN, ResultTable, TableRow

MARKS: dict[str | None, str] = {"source": "\u2020", "target": "\u2021", None: ""}


def compared(table: ResultTable) -> list[str]:
    """The columns whose best number may be marked: all rows are on the same images and labels."""
    same = [label for label in table.targets if len(_images(table, label)) <= 1]
    return [*same, *([MEAN] if len(same) == len(table.targets) else [])]


def notes_of(table: ResultTable) -> Iterator[str]:
    """The notes of a table."""
    if any(row.count > 1 for row in table.rows):
        yield "Mean \u00b1 population standard deviation over n networks (seeds and heads)."
    if any(row.best for row in table.rows):
        sizes = {row.size for row in table.rows if row.entries}
        yield f"Bold: the best of a target domain{' and a size' if len(sizes) > 1 else ''}."
    if any(column.has_paper for column in table.columns):
        yield (
            "paper: from the README of the original implementation, not measured here; ours: "
            "measured here."
        )
        if any(row.paper and row.paper.source == "synthia" for row in table.rows):
            yield "Whether the paper's SYNTHIA numbers are over 16 or 19 classes is not said."
    for label in table.targets:
        if label not in compared(table):
            kinds = " and ".join(sorted(_images(table, label)))
            yield f"{label}: rows are not comparable, they were scored on {kinds}."
    for kind in ("source", "target"):
        yield from _selected(table.rows, kind)


def _images(table: ResultTable, label: str) -> set[str]:
    scores = [
        entry.scores[label] for row in table.rows for entry in row.entries if label in entry.scores
    ]
    return {
        f"{score.images} images" + (f" of {score.label_encoding}" if score.label_encoding else "")
        for score in scores
    }


def _selected(rows: Sequence[TableRow], kind: str) -> Iterator[str]:
    """One note for all rows that were selected in the same way."""
    ways: dict[str, list[str]] = {}
    for row in rows:
        if row.selected_on == kind:
            chosen = [entry.selected for entry in row.entries if entry.selected is not None]
            ways.setdefault(_way(chosen), []).append(row.title)
    for way, titles in ways.items():
        on = f"selected on {way}"
        if kind == "target":
            on = f"selected on a target domain: not a generalisation result ({way})"
        yield f"{MARKS[kind]} {'; '.join(titles)}: {on}."


def _way(chosen: Sequence[Selected]) -> str:
    on = dict.fromkeys(label for selected in chosen for label in selected.on)
    counts = sorted({selected.candidates for selected in chosen})
    return f"{', '.join(on)}; the best of {' or '.join(map(str, counts))}"
