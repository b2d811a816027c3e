"""Inspect datasets: verify every image and label of one, draw some of them, list all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from tqdm import tqdm

from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError, counted
from revt_hf.core.outputs import check_output_file, check_suffix
from revt_hf.data.decoding import decode_image, open_image
from revt_hf.data.domains import DOMAINS, dataset_of, load_spec, space_of_images
from revt_hf.data.domains.base import NotThereError, Opened, by_reason
from revt_hf.data.domains.opening import checked_domain
from revt_hf.data.label_space import CITYSCAPES, IGNORE_INDEX
from revt_hf.data.parallel import FindDamage, in_threads, jpeg_damage
from revt_hf.data.reading import class_pixels
from revt_hf.results.sheets import Panel, contact_sheet, overlay

# Names in a note, and problems in the text.
_SHOWN = 20
_COLUMNS = ("image", "labels", "together")
_SHARING = {"yes": "yes", "no": "no", "confirm": "if you confirm the license"}


class Problem(NamedTuple):
    file: str
    what: str


class SplitCount(NamedTuple):
    """Images of a split, and the official number (None: unknown)."""

    images: int
    expected: int | None


@dataclass
class Verified:
    """The result; ``problems`` make the data unusable, ``notes`` do not."""

    domain: str
    config: str | None
    first: Opened  # split
    splits: dict[str, SplitCount] = field(default_factory=dict)
    # Of each train id.
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def class_shares(self) -> dict[str, float]:
        """Share of the labelled pixels by class, 0..1."""
        classes = self.first.table.space.classes
        counts = self.pixels[: len(classes)]
        shares = counts / max(int(counts.sum()), 1)
        return dict(zip(classes, shares.tolist(), strict=True))

    @property
    def ignored_share(self) -> float:
        """Share of the ignored pixels among all, 0..1."""
        ignored = int(self.pixels[IGNORE_INDEX])
        return ignored / max(int(self.pixels.sum()), 1)

    @property
    def is_complete(self) -> bool:
        """Whether no split has another number of images than the official one."""
        return all(count.expected in (None, count.images) for count in self.splits.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "domain": self.domain,
            "config": self.config,
            "layout": self.first.layout,
            "label_encoding": self.first.table.name,
            "splits": {name: count._asdict() for name, count in self.splits.items()},
            "classes": self.class_shares,
            "ignored": self.ignored_share,
            "problems": [problem._asdict() for problem in self.problems],
            "notes": self.notes,
        }

    @property
    def text(self) -> str:
        lines = [f"{self.domain}: {self.first.found}", ""]
        width = max(map(len, self.splits))
        for split, (images, expected) in self.splits.items():
            official = "" if expected is None else f" of {expected:,}"
            noun = "image" if images == 1 and not official else "images"
            lines.append(f"  {split:<{width}}  {images:>7,}{official} {noun}")
        if self.pixels[:IGNORE_INDEX].any():
            shares = self.class_shares.items()
            lines += ["", "  share of labelled pixels"]
            lines += [f"  {name:<14} {100 * share:6.2f} %" for name, share in shares]
            lines.append(f"  {'(ignored':<14} {100 * self.ignored_share:6.2f} % of all)")
        lines += ["", *(f"note: {note}" for note in self.notes)]
        lines += [f"problem: {p.file}: {p.what}" for p in self.problems[:_SHOWN]]
        more = len(self.problems) - _SHOWN
        if more > 0:
            lines.append(f"... and {more} more (--json FILE lists all)")
        lines.append(counted(len(self.problems), "problem") if self.problems else "no problems")
        return "\n".join(lines)


def verify(spec: DomainSpec, workers: int | None = None, quiet: bool = False) -> Verified:
    """Read every image and label of a domain's splits, and collect what is wrong with them."""
    given = (spec.data_dir, spec.config, spec.options)
    domain, folder, config, options = checked_domain(spec.domain, *given)
    opened: dict[str, Opened] = {}
    unusable: dict[str, UserError] = {}
    for split in domain.splits(folder, config, options):
        try:
            opened[split] = domain.open(split, folder, config, options)
        except UserError as error:
            unusable[split] = error
    # A split that is there but unusable tells more than one that is not there.
    absent = [split for split, error in unusable.items() if isinstance(error, NotThereError)]
    broken = [split for split in unusable if split not in absent]
    if not opened:
        reasons = [unusable[split] for split in (*broken, *absent)]
        raise next(iter(reasons), UserError(f"{spec.domain}: no split in {spec.data_dir}"))
    first = next(iter(opened.values()))
    result = Verified(spec.domain, config, first)
    result.notes += [f"{split}: {unusable[split]}" for split in absent]
    result.problems += [Problem(split, str(unusable[split])) for split in broken]
    for split in (*absent, *broken):
        result.splits[split] = SplitCount(0, domain.expected(split, config, options))
    for split, found in opened.items():
        result.splits[split] = SplitCount(found.images, found.expected)
        if found.difference:
            result.notes.append(f"{split}: {found.difference}")
        if found.layout != first.layout:
            result.notes.append(f"{split}: {found.found}")
        for file, what in (*found.missing, *found.broken):
            # The file stands before its problem already.
            what = what.removeprefix(f"{file} ").removesuffix(f": {file} does not exist")
            if (file, what) not in result.problems:
                result.problems.append(Problem(file, what))
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
    progress = tqdm(total=total, unit="image", desc="verify", disable=quiet)
    with progress, jpeg_damage() as find_damage:
        for split, found in opened.items():
            keys: list[str] = []
            rows, before = _unseen(found, split, seen, keys), progress.n
            check = partial(_check, found, find_damage)
            for key, pixels, problems, fitted in in_threads(check, rows, workers):
                if pixels is not None:
                    result.pixels += pixels
                result.problems += problems
                refitted += fitted
                # A label that cannot be read is a problem of its own.
                seen[key] = pixels is None or bool(pixels[:IGNORE_INDEX].any())
                progress.update()
            progress.update(found.images - (progress.n - before))
            if keys and not any(seen[key] for key in keys):
                result.problems.append(Problem(split, "no pixel of this split is labelled"))
    if refitted:
        result.notes.append(
            f"{counted(refitted, 'label')} not of its image's size, as known of this dataset: "
            "resized (nearest) while reading"
        )


def _unseen(
    found: Opened, split: str, seen: dict[str, bool], keys: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows that are not in ``seen`` yet; ``keys`` takes those of all."""
    if not found.images:
        return
    for row in dataset_of(found.builder, found.decode, split).with_format(None):
        keys.append(row["image"]["path"] or f"{split}/{row['name']}")
        if keys[-1] not in seen:
            seen[keys[-1]] = False
            yield {**row, "key": keys[-1]}


def _check(
    found: Opened, find_damage: FindDamage, row: dict[str, Any]
) -> tuple[str, NDArray[np.int64] | None, list[Problem], bool]:
    """A row's key, pixels per train id, problems, and whether its label was resized."""
    files = {kind: str(row[kind]["path"] or row["name"]) for kind in ("image", "label")}
    image = pixels = None
    found_here: list[tuple[str, object]] = []
    counts, fitted = None, False
    try:
        image = open_image(row["image"])
        pixels = decode_image(image)
        if image.header.kind == "jpeg":
            found_here.append(("image", find_damage(files["image"]) or ""))
    except UserError as error:
        found_here.append(("image", error))
    try:
        size = None if pixels is None else (pixels.shape[0], pixels.shape[1])
        label = found.decode.lenient(open_image(row["label"]), image, size)
        fitted = bool(label.size) and found.decode.fit_labels
        unknown = found.table.problem(label.unknown) if label.unknown else ""
        what = (unknown, label.turned, "" if fitted else label.size)
        found_here += [("label", one) for one in what]
        counts = class_pixels(label.train_ids)
    except UserError as error:
        found_here.append(("label", error))
    problems = [
        Problem(files[kind], str(what).removeprefix(f"{files[kind]}: "))
        for kind, what in found_here
        if str(what)
    ]
    return row["key"], counts, problems, fitted


def show(
    spec: DomainSpec, split: str, output: Path, images: int = 6, overwrite: bool = False
) -> int:
    """Write a contact sheet (PNG) of images spread over a split, and return their number."""
    check_suffix(output, ".png")
    check_output_file(output, overwrite, [spec.data_dir])
    rows = load_spec(spec, split)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(images, len(rows))).round().astype(int))
    sheet, names, labels = [], [], []
    space = space_of_images(rows) or CITYSCAPES
    for row in map(rows.__getitem__, chosen.tolist()):
        image, label = row["image"], row["label"]
        panels = (image, space.colourise(label), overlay(image, label, space=space))
        sheet.append(list(map(Panel, _COLUMNS, panels)))
        names.append(row["name"])
        labels.append(label)
    contact_sheet(sheet, _COLUMNS, names, space.legend(labels), output)
    return len(sheet)


def listing() -> list[dict[str, Any]]:
    """The facts about every domain, as JSON values."""
    return [
        {
            "domain": domain.name,
            "kind": domain.facts.kind,
            "configs": list(domain.configs),
            "images": dict(domain.facts.images),
            "license": domain.facts.license,
            "download": domain.facts.download,
            "redistribution": domain.facts.sharing.allowed,
            "redistribution_reason": domain.facts.sharing.reason,
        }
        for domain in DOMAINS.values()
    ]


def listing_table() -> Table:
    table = Table(show_lines=True)
    table.add_column("domain", no_wrap=True)
    table.add_column("images", no_wrap=True)
    # One wide column: names of licenses and archives do not fit into narrow ones.
    table.add_column("terms", overflow="fold")
    for row in listing():
        counts = "\n".join(f"{split} {count:,}" for split, count in row["images"].items())
        table.add_row(
            "\n".join([row["domain"], row["kind"], *(f"- {name}" for name in row["configs"])]),
            counts or "-",
            f"license: {row['license']}\ndownload: {row['download']}\n"
            f"redistribution: {_SHARING[row['redistribution']]}",
        )
    return table
