"""Verify a dataset: read every image and label, and collect problems and statistics."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from revt_hf.config.domain_spec import DomainSpec
from revt_hf.core.errors import UserError, counted
from revt_hf.data.decoding import decode_image, open_image
from revt_hf.data.domains.base import NotThereError, Opened, by_reason
from revt_hf.data.domains.opening import checked_domain, table_of
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, NUM_CLASSES
from revt_hf.data_tools.parallel import JpegDamage, in_threads

# Names in a note.
_SHOWN = 20
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Problem:
    """A file, and what is wrong with it."""

    file: str
    what: str


@dataclass(frozen=True)
class SplitCount:
    """Images of a split, and the official number (None: unknown)."""

    images: int
    expected: int | None


@dataclass
class Verified:
    """The result; ``problems`` make the data unusable, ``notes`` do not.

    ``pixels`` counts the labels' train ids, (256,).
    """

    domain: str
    config: str | None
    layout: str
    found: str
    label_encoding: str
    splits: dict[str, SplitCount] = field(default_factory=dict)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def class_shares(self) -> dict[str, float]:
        """Share of the labelled pixels by class, 0..1."""
        counts = self.pixels[:NUM_CLASSES]
        shares = counts / max(int(counts.sum()), 1)
        return dict(zip(CLASSES, shares.tolist(), strict=True))

    @property
    def ignored_share(self) -> float:
        """Share of the ignored pixels among all, 0..1."""
        ignored = int(self.pixels[IGNORE_INDEX])
        return ignored / max(ignored + int(self.pixels[:NUM_CLASSES].sum()), 1)

    @property
    def is_complete(self) -> bool:
        """Whether no split has another number of images than the official one."""
        return all(count.expected in (None, count.images) for count in self.splits.values())

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` writes; shares are 0..1."""
        return {
            "domain": self.domain,
            "config": self.config,
            "layout": self.layout,
            "label_encoding": self.label_encoding,
            "splits": {name: asdict(count) for name, count in self.splits.items()},
            "classes": self.class_shares,
            "ignored": self.ignored_share,
            "problems": [asdict(problem) for problem in self.problems],
            "notes": self.notes,
        }

    @property
    def text(self) -> str:
        """The result for the terminal."""
        lines = [f"{self.domain}: {self.found}", ""]
        width = max(map(len, self.splits))
        for split, count in self.splits.items():
            official = "" if count.expected is None else f" of {count.expected:,}"
            noun = "image" if count.images == 1 and not official else "images"
            lines.append(f"  {split:<{width}}  {count.images:>7,}{official} {noun}")
        if self.pixels[:NUM_CLASSES].any():
            lines += ["", "  share of labelled pixels"]
            lines += [
                f"  {name:<14} {100 * share:6.2f} %" for name, share in self.class_shares.items()
            ]
            lines.append(f"  {'(ignored':<14} {100 * self.ignored_share:6.2f} % of all)")
        lines += ["", *(f"note: {note}" for note in self.notes)]
        lines += [f"problem: {p.file}: {p.what}" for p in self.problems[:_SHOWN_PROBLEMS]]
        more = len(self.problems) - _SHOWN_PROBLEMS
        if more > 0:
            lines.append(f"... and {more} more (--json FILE lists all)")
        lines.append(counted(len(self.problems), "problem") if self.problems else "no problems")
        return "\n".join(lines)


def verify(spec: DomainSpec, workers: int | None = None, quiet: bool = False) -> Verified:
    """Read every image and label of a domain's splits, and collect what is wrong with them."""
    opened, absent = _open_splits(spec)
    if not opened:
        # A split that is there but unusable tells more than one that is not there.
        reasons = sorted(absent.values(), key=lambda error: isinstance(error, NotThereError))
        raise next(iter(reasons), UserError(f"{spec.domain}: no split in {spec.data_dir}"))
    domain, _, config, options = checked_domain(
        spec.domain, spec.data_dir, spec.config, spec.options
    )
    first = next(iter(opened.values()))
    result = Verified(spec.domain, config, first.layout, first.found, first.table.name)
    for split, reason in absent.items():
        expected = domain.expected(split, config, options)
        result.splits[split] = SplitCount(0, expected)
        if isinstance(reason, NotThereError):
            result.notes.append(f"{split}: {reason}")
        else:
            result.problems.append(Problem(split, str(reason)))
    for split, found in opened.items():
        result.splits[split] = SplitCount(found.images, found.expected)
        if found.difference:
            result.notes.append(f"{split}: {found.difference}")
        if found.layout != first.layout:
            result.notes.append(f"{split}: {found.found}")
        listed = dict.fromkeys(_listed(*one) for one in (*found.missing, *found.broken))
        result.problems += [problem for problem in listed if problem not in result.problems]
        unused = by_reason(found.unused, _SHOWN)
        result.notes += [note for note in unused if note not in result.notes]
    _read_all(result, opened, workers, quiet)
    return result


def _open_splits(spec: DomainSpec) -> tuple[dict[str, Opened], dict[str, UserError]]:
    """The splits that can be read, and why the others cannot: absent ones first."""
    domain, folder, config, options = checked_domain(
        spec.domain, spec.data_dir, spec.config, spec.options
    )
    opened: dict[str, Opened] = {}
    failed: dict[str, UserError] = {}
    for split in domain.splits(folder, config, options):
        try:
            opened[split] = domain.open(split, folder, config, options)
        except UserError as error:
            failed[split] = error
    in_order = sorted(failed, key=lambda split: not isinstance(failed[split], NotThereError))
    return opened, {split: failed[split] for split in in_order}


def _listed(file: str, what: str) -> Problem:
    """A problem without its file, which stands before it."""
    return Problem(file, what.removeprefix(f"{file} ").removesuffix(f": {file} does not exist"))


def _read_all(
    result: Verified, opened: Mapping[str, Opened], workers: int | None, quiet: bool
) -> None:
    # Splits share images (full and train), so each is read once: whether anything is labelled.
    seen: dict[str, bool] = {}
    refitted = 0
    total = sum(found.images for found in opened.values())
    with (
        tqdm(total=total, unit="image", desc="verify", disable=quiet) as progress,
        JpegDamage() as damage,
    ):
        for split, found in opened.items():
            keys: list[str] = []
            rows = _unseen(found, split, seen, keys)
            before = progress.n
            for checked in in_threads(partial(_check, found, damage), rows, workers):
                result.pixels += checked.pixels
                result.problems += checked.problems
                refitted += checked.refitted
                seen[checked.key] = checked.labelled
                progress.update()
            progress.update(found.images - (progress.n - before))
            if keys and not any(seen[key] for key in keys):
                result.problems.append(Problem(split, "no pixel of this split is labelled"))
    if refitted:
        result.notes.append(
            f"{counted(refitted, 'label')} not of its image's size, a known defect: resized "
            "(nearest) while reading"
        )


def _unseen(
    found: Opened, split: str, seen: dict[str, bool], keys: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows that are not in ``seen`` yet; ``keys`` takes those of all."""
    if not found.images:
        return
    for row in table_of(found.builder, split):
        keys.append(row["image"]["path"] or f"{split}/{row['name']}")
        if keys[-1] not in seen:
            seen[keys[-1]] = False
            yield {**row, "key": keys[-1]}


@dataclass
class _Checked:
    """Findings on one image and its label; ``key`` distinguishes the image from all others."""

    key: str
    labelled: bool = True
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    problems: list[Problem] = field(default_factory=list)
    refitted: bool = False

    def add(self, file: str, what: object) -> None:
        self.problems.append(Problem(file, str(what).removeprefix(f"{file}: ")))


def _check(found: Opened, damage: JpegDamage, row: dict[str, Any]) -> _Checked:
    checked = _Checked(row["key"])
    files = {kind: str(row[kind]["path"] or row["name"]) for kind in ("image", "label")}
    image = pixels = label = None
    try:
        image = open_image(row["image"])
        pixels = decode_image(image)
        if image.header.kind == "jpeg" and (what := damage.find(files["image"])):
            checked.add(files["image"], what)
    except UserError as error:
        checked.add(files["image"], error)
    try:
        label = found.decode.lenient(open_image(row["label"]), image, pixels)
    except UserError as error:
        checked.add(files["label"], error)
    if label is not None:
        checked.refitted = bool(label.size) and found.decode.fit_labels
        unknown = found.table.problem(label.unknown) if label.unknown else ""
        for problem in (unknown, label.turned, "" if checked.refitted else label.size):
            if problem:
                checked.add(files["label"], problem)
        counts = cv2.calcHist([np.ascontiguousarray(label.train_ids)], [0], None, [256], [0, 256])
        checked.pixels = counts.reshape(-1).astype(np.int64)
        checked.labelled = bool(checked.pixels[:NUM_CLASSES].any())
    return checked
