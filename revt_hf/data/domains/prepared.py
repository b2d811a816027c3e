"""Prepared folders: images of a split that were resized once, as trainings read them."""

from pathlib import Path
from typing import Any, Literal

from revt_hf.config.recipe import DomainSpec, Source
from revt_hf.config.yaml_files import Section
from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import Layout
from revt_hf.data.domains.files import Finder
from revt_hf.data.domains.opening import (
    checked_domain,
    dataset_of,
    domain_label,
    get_domain,
    open_domain,
)
from revt_hf.data.domains.paired import pairs_builder
from revt_hf.data.label_space import CITYSCAPES, space_of
from revt_hf.data.labels import id_table
from revt_hf.data.reading import Decode

RECORD_FILE, IMAGES, LABELS = "prepared.json", "images", "labels"
Format = Literal["webp", "png", "raw"]
# (suffix of images, suffix of labels); labels compress so well that PNG is always enough.
SUFFIXES: dict[Format, tuple[str, str]] = {
    "webp": (".webp", ".png"),
    "png": (".png", ".png"),
    "raw": (".npy", ".npy"),
}


class PreparedRecord(Section):
    """``prepared.json``: where the images come from and how they were made."""

    domain: str
    config: str | None
    options: dict[str, Any]
    split: str
    max_size: tuple[int, int] | None  # (width, height); None: native
    format: Format
    label_encoding: str  # the table that mapped the labels to class ids
    classes: tuple[str, ...]  # in the order of the ids; an object of options has no order
    content: str  # the hash of the split that was read: names, file sizes and times
    images: int
    revt_hf: str


def record_source(spec: DomainSpec, split: str) -> dict[str, Any]:
    """The fields of a record that name its source; options have all defaults, as JSON values."""
    _, _, config, options = checked_domain(spec.domain, None, spec.config, spec.options)
    return {
        "domain": spec.domain,
        "config": config,
        "options": options.model_dump(mode="json"),
        "split": split,
    }


def load_prepared(source: Source, max_size: tuple[int, int] | None) -> Any:
    """The training images of a source from its prepared folder, as ``load_domain`` gives them.

    Refuses one that is incomplete, of another split or max size, or whose source has changed since.
    """
    folder = Path(str(source.prepared))
    path = folder / RECORD_FILE
    if not path.is_file():
        raise UserError(f"{folder} is not a prepared folder: it has no {RECORD_FILE}")
    try:
        record = PreparedRecord.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not a record of revt data prepare") from error
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
        origin = (source.domain, source.train, source.data_dir, source.config, source.options)
        if open_domain(*origin).content != record.content:
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
    space = space_of(record.classes, str(path))
    table = layout.table if space == CITYSCAPES else id_table(space)
    return dataset_of(builder, Decode(table), source.train)
