"""The original's custom data set: ``img_dir/<split>`` and ``ann_dir/<split>``.

Pictures and labels have the same relative name, only the suffix differs. Folders are searched
recursively.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from pydantic import BaseModel, ConfigDict

from revt_hf.domains.base import FEATURES, Domain, SourceFile, fingerprint
from revt_hf.errors import UserError
from revt_hf.labels import LabelTable, label_table


class FolderOptions(BaseModel):
    """Options of the ``folder`` domain.

    ``image_dir`` and ``label_dir`` may hold ``{split}``. ``split_files`` maps a split to a text
    file (relative to ``data_dir``) with one name or stem a line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_dir: str = "img_dir/{split}"
    label_dir: str = "ann_dir/{split}"
    image_suffix: str = ".png"
    label_suffix: str = ".png"
    encoding: str | dict[int, int] = "train_ids"
    split_files: dict[str, str] = {}


@dataclass(frozen=True)
class _Pair:
    image: Path
    label: Path
    name: str


class FolderBuilder(datasets.GeneratorBasedBuilder):
    """One split as a table of paths; the pictures stay where they are."""

    BUILDER_CONFIG_CLASS = datasets.BuilderConfig

    def __init__(self, pairs: list[_Pair], split: str, **kwargs: Any) -> None:
        self._pairs = pairs
        self._split = split
        super().__init__(**kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, _: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(self._split, {"pairs": self._pairs})]

    def _generate_examples(self, pairs: list[_Pair]) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, pair in enumerate(pairs):
            yield key, {"image": str(pair.image), "label": str(pair.label), "name": pair.name}


class FolderDomain(Domain):
    """See the module."""

    name = "folder"
    options_model = FolderOptions
    needs_data_dir = True

    def builder(
        self, split: str, data_dir: Path | None, config: str | None, options: Any, **kwargs: Any
    ) -> datasets.DatasetBuilder:
        self.no_config(config)
        root = self.existing(data_dir)
        pairs = _find_pairs(root, split, options)
        files = [SourceFile.of(path) for pair in pairs for path in (pair.image, pair.label)]
        return FolderBuilder(
            pairs, split, dataset_name=self.name, hash=fingerprint(files), **kwargs
        )

    def table(self, options: Any) -> LabelTable:
        return label_table(options.encoding)

    def label(self, split: str, data_dir: Path | None, config: str | None) -> str:
        return f"{data_dir.resolve().name if data_dir else self.name}/{split}"


def _find_pairs(root: Path, split: str, options: FolderOptions) -> list[_Pair]:
    image_dir = root / options.image_dir.replace("{split}", split)
    label_dir = root / options.label_dir.replace("{split}", split)
    for folder, what in ((image_dir, "pictures"), (label_dir, "labels")):
        if not folder.is_dir():
            raise UserError(f"split '{split}': the folder of {what} is missing: {folder}")
    if split in options.split_files:
        names = _listed(root / options.split_files[split], options)
    else:
        names = [
            found.relative_to(image_dir).as_posix().removesuffix(options.image_suffix)
            for found in image_dir.rglob(f"*{options.image_suffix}")
            # With one folder for both, "1_labels.png" is not a picture.
            if image_dir != label_dir or not found.name.endswith(options.label_suffix)
        ]
    if not names:
        raise UserError(f"no pictures *{options.image_suffix} in {image_dir}")
    pairs = [
        _Pair(
            image_dir / f"{name}{options.image_suffix}",
            label_dir / f"{name}{options.label_suffix}",
            name,
        )
        for name in sorted(names)
    ]
    for pair in pairs:
        if not pair.image.is_file():
            raise UserError(f"the picture {pair.image} is listed but does not exist")
        if not pair.label.is_file():
            raise UserError(f"the picture {pair.image} has no label: {pair.label} does not exist")
    return pairs


def _listed(path: Path, options: FolderOptions) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the split file {path}") from error
    return [line.removesuffix(options.image_suffix) for line in dict.fromkeys(lines)]
