"""Load training images that ``revt data prepare`` resized once, lossless."""

import json
from pathlib import Path
from typing import Any, Literal

from revt_hf.config.recipe import DomainSpec, Source
from revt_hf.config.yaml_files import Section
from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import checked_options
from revt_hf.data.domains.layouts import Finder, Layout
from revt_hf.data.domains.opening import dataset_of, domain_label, get_domain, open_domain
from revt_hf.data.domains.paired import pairs_builder
from revt_hf.data.reading import Decode

RECORD_FILE = "prepared.json"
IMAGES, LABELS = "images", "labels"

Format = Literal["webp", "png", "raw"]
# (suffix of images, suffix of labels); labels compress so well that PNG is always enough.
SUFFIXES: dict[Format, tuple[str, str]] = {
    "webp": (".webp", ".png"),
    "png": (".png", ".png"),
    "raw": (".npy", ".npy"),
}


class PreparedRecord(Section):
    """``prepared.json``: where the images come from and how they were made.

    ``max_size`` is (width, height), None for native size; ``content`` the hash of the split that
    was read (names, file sizes and times); ``label_encoding`` the table that mapped its labels to
    train ids.
    """

    domain: str
    config: str | None
    options: dict[str, Any]
    split: str
    max_size: tuple[int, int] | None
    format: Format
    label_encoding: str
    content: str
    images: int
    revt_hf: str


def read_record(folder: Path) -> PreparedRecord:
    """The record of a prepared folder."""
    path = folder / RECORD_FILE
    if not path.is_file():
        raise UserError(f"{folder} is not a prepared folder: it has no {RECORD_FILE}")
    try:
        return PreparedRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{path} is not a record of revt data prepare") from error


def load_prepared(source: Source, max_size: tuple[int, int] | None) -> Any:
    """The training images of a source from its prepared folder, as ``load_domain`` gives them.

    Refuses a folder that is incomplete, was made from another split or with another max size
    (width, height), or whose source has changed since.
    """
    folder = Path(str(source.prepared))
    record = read_record(folder)
    for key, value in record_source(source, source.train).items():
        if getattr(record, key) != value:
            raise UserError(
                f"{folder} was prepared with {key} {getattr(record, key)}, the recipe has {value}"
            )
    # The order of a max size's sides does not matter.
    if sorted(record.max_size or ()) != sorted(max_size or ()):
        raise UserError(
            f"{folder} was resized to {record.max_size}, the recipe's augmentation.max_size is "
            f"{max_size}: prepare it again, or change the recipe"
        )
    if source.data_dir is not None or not get_domain(source.domain).needs_data_dir:
        opened = open_domain(
            source.domain, source.train, source.data_dir, source.config, source.options
        )
        if opened.content != record.content:
            raise UserError(
                f"{domain_label(source, source.train)} has changed since {folder} was prepared: "
                "prepare it again"
            )
    layout = Layout("converted", IMAGES, LABELS, *SUFFIXES[record.format])
    match = Finder(folder.resolve()).find([layout], record.split, "a prepared folder")
    if len(match.pairs) != record.images or match.unusable:
        raise UserError(
            f"{folder} holds {len(match.pairs)} of {record.images} images: prepare it again"
        )
    builder = pairs_builder([*match.pairs.values()], source.train, "prepared")
    return dataset_of(builder, Decode(layout.table), source.train)


def record_source(spec: DomainSpec, split: str) -> dict[str, Any]:
    """The fields of a record that name its source; options have all defaults, as JSON values."""
    domain = get_domain(spec.domain)
    return {
        "domain": spec.domain,
        "config": domain.chosen_config(spec.config),
        "options": checked_options(domain, spec.options).model_dump(mode="json"),
        "split": split,
    }
