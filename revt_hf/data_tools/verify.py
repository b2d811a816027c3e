"""``revt data verify``: is what lies on disk what the dataset should be?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from revt_hf.core.errors import UserError, counted
from revt_hf.data.decoding import ImageFile, decode_image, decode_raw, open_image
from revt_hf.data.domains import checked_options, get_domain, table_of
from revt_hf.data.domains.base import NotThereError, Opened, by_reason
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, NUM_CLASSES
from revt_hf.data.reading import fitted, label_turn, size_difference, turned_apart
from revt_hf.data_tools.jpeg_damage import JpegDamage
from revt_hf.data_tools.parallel import in_threads

# Names in a note.
_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """A file, and what is wrong with it."""

    file: str
    what: str


@dataclass(frozen=True)
class SplitCount:
    """Images of a split, and how many it officially has (None: not known)."""

    images: int
    expected: int | None


@dataclass
class Verified:
    """What was found; ``problems`` make the data unusable, ``notes`` do not."""

    domain: str
    config: str | None
    layout: str
    found: str
    label_encoding: str
    splits: dict[str, SplitCount] = field(default_factory=dict)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` writes; shares are 0..1."""
        labelled = int(self.pixels[:NUM_CLASSES].sum())
        total = labelled + int(self.pixels[IGNORE_INDEX])
        return {
            "domain": self.domain,
            "config": self.config,
            "layout": self.layout,
            "label_encoding": self.label_encoding,
            "splits": {
                name: {"images": count.images, "expected": count.expected}
                for name, count in self.splits.items()
            },
            "classes": {
                name: int(self.pixels[train_id]) / labelled if labelled else 0.0
                for train_id, name in enumerate(CLASSES)
            },
            "ignored": int(self.pixels[IGNORE_INDEX]) / total if total else 0.0,
            "problems": [{"file": p.file, "what": p.what} for p in self.problems],
            "notes": self.notes,
        }


@dataclass(frozen=True)
class _Checked:
    """What one image and its label hold.

    ``key`` tells the image from all others; ``labelled`` is false where the label can be read
    and ignores every pixel.
    """

    key: str
    labelled: bool
    pixels: NDArray[np.int64]
    problems: list[Problem]
    refitted: bool


def verify(
    name: str,
    data_dir: Path | None = None,
    config: str | None = None,
    options: Mapping[str, Any] | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Verified:
    """Read every image and label of a domain's splits and say what is wrong with them.

    Args:
        name: of the domain.
        data_dir: the folder of its data.
        config: of the domain.
        options: of the domain.
        workers: threads; all cores by default.
        quiet: no progress bar.

    Raises:
        UserError: unknown domain, config or option, or no split is there at all.
    """
    domain = get_domain(name)
    if data_dir is not None and not domain.needs_data_dir:
        raise UserError(f"the domain '{name}' is built in: it takes no data_dir")
    chosen = domain.chosen_config(config)
    settings = checked_options(domain, options or {})
    opened: dict[str, Opened] = {}
    absent: dict[str, NotThereError] = {}
    unusable: dict[str, UserError] = {}
    for split in domain.splits(data_dir, chosen, settings):
        try:
            opened[split] = domain.open(split, data_dir, chosen, settings)
        except NotThereError as error:
            absent[split] = error
        except UserError as error:
            unusable[split] = error
    if not opened:
        reasons = [*unusable.values(), *absent.values()]
        raise next(iter(reasons), UserError(f"{name}: no split in {data_dir}"))
    first = next(iter(opened.values()))
    result = Verified(name, chosen, first.layout, first.found, first.table.name)
    for split, reason in {**absent, **unusable}.items():
        result.splits[split] = SplitCount(0, domain.expected(split, chosen, settings))
        if split in absent:
            result.notes.append(f"{split}: {reason}")
        else:
            result.problems.append(Problem(split, str(reason)))
    for split, found in opened.items():
        result.splits[split] = SplitCount(found.images, found.expected)
        if found.difference:
            result.notes.append(f"{split}: {found.difference}")
        if found.layout != first.layout:
            result.notes.append(f"{split}: {found.found}")
        listed = dict.fromkeys(Problem(*_short(*one)) for one in (*found.missing, *found.broken))
        result.problems += [problem for problem in listed if problem not in result.problems]
        unused = by_reason(found.unused, _SHOWN)
        result.notes += [note for note in unused if note not in result.notes]
    _read_all(result, opened, workers, quiet)
    return result


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


def _check(found: Opened, damage: JpegDamage, row: dict[str, Any]) -> _Checked:
    pixels = np.zeros(256, dtype=np.int64)
    problems: list[Problem] = []
    files = {kind: str(row[kind]["path"] or row["name"]) for kind in ("image", "label")}
    refitted = False
    opened: dict[str, ImageFile] = {}
    image = label = None
    try:
        opened["image"] = open_image(row["image"])
        image = decode_image(opened["image"])
        if opened["image"].header.kind == "jpeg" and (what := damage.find(files["image"])):
            problems.append(Problem(files["image"], what))
    except UserError as error:
        problems.append(_problem(files["image"], error))
    try:
        opened["label"] = open_image(row["label"])
        turn = label_turn(opened.get("image"), opened["label"], found.follow_exif)
        label, unknown = found.table.lenient(decode_raw(opened["label"], found.table, turn))
        if unknown:
            what = f"{found.table.described(unknown)} is not in the encoding '{found.table.name}'"
            problems.append(Problem(files["label"], what))
    except UserError as error:
        problems.append(_problem(files["label"], error))
    if label is not None and image is not None:
        if apart := turned_apart(opened["image"], opened["label"], found.follow_exif):
            problems.append(Problem(files["label"], apart))
        difference = size_difference(image, label)
        if difference and found.fit_labels:
            label, refitted = fitted(label, image), True
        elif difference:
            problems.append(Problem(files["label"], difference))
    if label is not None:
        counts = cv2.calcHist([np.ascontiguousarray(label)], [0], None, [256], [0, 256])
        pixels = counts.reshape(-1).astype(np.int64)
    labelled = label is None or bool(pixels[:NUM_CLASSES].any())
    return _Checked(row["key"], labelled, pixels, problems, refitted)


def _short(file: str, what: str) -> tuple[str, str]:
    """A problem without its file, which stands before it."""
    return file, what.removeprefix(f"{file} ").removesuffix(f": {file} does not exist")


def _problem(file: str, error: UserError) -> Problem:
    return Problem(file, str(error).removeprefix(f"{file}: "))
