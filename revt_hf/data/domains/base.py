"""The interface of a domain: facts, options, layouts, and splits that can be opened."""

import hashlib
import json
import logging
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import datasets
from pydantic import BaseModel

from revt_hf.config.yaml_files import Section, validated
from revt_hf.core.errors import DataWarning, UserError, counted
from revt_hf.data.label_space import CITYSCAPES, LabelSpace
from revt_hf.data.labels import TRAIN_IDS, LabelTable
from revt_hf.data.reading import Decode

LOG = logging.getLogger("revt_hf.data.domains")
_SHOWN = 3

Given: TypeAlias = Mapping[str, Any]  # a domain's options, not validated yet
# Files, each with a reason or problem.
Files: TypeAlias = tuple[tuple[str, str], ...]


class NotThereError(UserError):
    """A split is absent altogether, so nothing is wrong with the data that are there."""


@dataclass(frozen=True)
class Sharing:
    """Whether a dataset's images may be passed on.

    Attributes:
        allowed: ``confirm`` if the license is known to allow it, but only at second hand, so that
            the user has to name it.
        reason: a sentence for those who are refused or asked.
        license_id: the Hub's identifier of the license (``cc-by-nc-sa-4.0``, ``other``).
    """

    allowed: Literal["yes", "no", "confirm"]
    reason: str
    license_id: str = "other"


@dataclass(frozen=True)
class Facts:
    """A dataset at a glance.

    Attributes:
        license: its name, or its gist.
        download: where to get the data.
        sharing: whether it may be passed on.
        images: official number of labelled images of each split of the default config.
        images_of: the same for other configs.
        kind: origin of the images.
        hub_id: the dataset of the Hub in which its own authors publish it, if they do.
    """

    license: str
    download: str
    sharing: Sharing
    images: Mapping[str, int] = field(default_factory=dict)
    images_of: Mapping[str | None, Mapping[str, int]] = field(default_factory=dict)
    kind: Literal["synthetic", "real", "any"] = "real"
    hub_id: str | None = None


@dataclass(frozen=True)
class Layout:
    """Where images and labels lie below ``data_dir``; apart from these parts their names agree.

    In folders, ``{split}`` stands for the split's folder, ``{name}`` for its name, and ``{part}``
    for each of its parts, as in suffixes. Upper and lower case of suffixes do not matter.

    Attributes:
        kind: as downloaded, or converted for mmsegmentation or the original implementation.
        images: folder of the images.
        labels: folder of the labels.
        image_suffix: end of an image's name that its label does not share, or several.
        label_suffix: end of a label's name, or several.
        table: maps label values to train ids.
        folders: folders of splits, where they are not the splits' names.
        parts: subsets that make up the split together.
        prefixes: beginnings of an image's name and of a label's that the other does not share.
        fit_labels: resize label maps that differ in size from their images, instead of refusing
            them; where some are known to.
        more_labels: whether the labels are another dataset's, which has more of them.
        counted: whether the official number of images can be expected here.
        config: the only config of the domain that has this layout; None: all have it.
    """

    kind: Literal["official", "converted"]
    images: str
    labels: str
    image_suffix: str | tuple[str, ...]
    label_suffix: str | tuple[str, ...]
    table: LabelTable = TRAIN_IDS
    folders: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ("",)
    prefixes: tuple[str, str] = ("", "")
    fit_labels: bool = False
    more_labels: bool = False
    counted: bool = True
    config: str | None = None

    def suffixes(self, part: str | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The ends of images' names, and those of labels' names, of one part or of all."""

        def filled(ends: str | tuple[str, ...]) -> tuple[str, ...]:
            templates = (ends,) if isinstance(ends, str) else ends
            chosen = self.parts if part is None else (part,)
            found = (end.replace("{part}", one) for one in chosen for end in templates)
            return tuple(dict.fromkeys(found))

        return filled(self.image_suffix), filled(self.label_suffix)

    def folder_pairs(self, split: str) -> list[tuple[str, str, str]]:
        """(part, folder of images, folder of labels) of each part of a split."""

        def filled(template: str, part: str) -> str:
            named = template.replace("{split}", self.folders.get(split, split))
            return named.replace("{name}", split).replace("{part}", part)

        return [(part, filled(self.images, part), filled(self.labels, part)) for part in self.parts]

    def described(self, split: str) -> str:
        """``images/*.png with labels/*.png``, of the first part, and how many more there are."""
        part, images, labels = self.folder_pairs(split)[0]
        before, label_before = self.prefixes
        more = f" and {len(self.parts) - 1} more such" if len(self.parts) > 1 else ""
        found = (
            f"{images}/{before}*{image} with {labels}/{label_before}*{label}"
            for image, label in product(*self.suffixes(part))
        )
        return " or ".join(found) + more

    def unpacked_apart(self, images: str, labels: str) -> "Layout":
        """The same with the images' archive and the labels' in folders of their own names."""
        return replace(self, images=f"{images}/{self.images}", labels=f"{labels}/{self.labels}")


class RowsBuilder(datasets.GeneratorBasedBuilder):
    """One split as a table of the undecoded rows that ``make`` gives, one for each source."""

    def __init__(
        self, sources: list[Any], make: Callable[[Any], dict[str, Any]], split: str, **kwargs: Any
    ) -> None:
        self._sources, self._make, self._split = sources, make, split
        super().__init__(**kwargs)

    def _info(self) -> datasets.DatasetInfo:
        # Undecoded: PIL would destroy palette ids and 16-bit labels; see ``reading.Decode``.
        cell = datasets.Image(decode=False)
        features = {"image": cell, "label": cell, "name": datasets.Value("string")}
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, _: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        # datasets divides a list among processes.
        return [datasets.SplitGenerator(arrow_split(self._split), {"sources": self._sources})]

    def _generate_examples(self, sources: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in map(self._make, sources):
            yield row["name"], row


def arrow_split(split: str) -> str:
    """A split's name for ``datasets``, which only allows words and gives ``all`` a meaning."""
    return f"split_{re.sub(r'[^0-9A-Za-z]', '_', split)}"


def fingerprint(parts: Iterable[Any]) -> str:
    """A short hash of JSON values; ``datasets`` itself would not notice a changed file."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Opened:
    """One split of a domain, found on disk and ready to be read."""

    builder: Callable[..., datasets.DatasetBuilder]  # takes ``cache_dir``
    decode: Decode  # the transform that turns the builder's rows into arrays
    layout: str  # "official", "converted" or "built-in"
    found: str  # a sentence on where the files were found
    images: int
    content: str  # a hash that changes when an image comes, goes or changes
    expected: int | None = None  # the official number of images, if known
    missing: Files = ()  # files that should be there
    broken: Files = ()  # files that cannot be opened
    unused: Files = ()  # files that may have been meant
    left_out: Mapping[str, str] = field(default_factory=dict)  # images known to be defective

    @property
    def table(self) -> LabelTable:
        return self.decode.table

    @property
    def difference(self) -> str | None:
        """How the number of images differs from the official one; None if it does not."""
        if self.expected is None or self.expected == self.images:
            return None
        word = "missing" if self.images < self.expected else "too many"
        away = abs(self.images - self.expected)
        return f"{counted(self.images, 'image')}, officially {self.expected} ({away} {word})"

    def check(self, name: str) -> None:
        """Log what was found; warn of files left out and of an unofficial number of images."""
        if self.missing:
            more = f" (and {len(self.missing) - 1} more like it)" if len(self.missing) > 1 else ""
            raise UserError(f"{self.missing[0][1]}{more}")
        LOG.info("%s: %s", name, self.found)
        if self.left_out:
            shown = ", ".join([*self.left_out][:_SHOWN] + ["..."] * (len(self.left_out) > _SHOWN))
            LOG.info(
                f"{name}: {len(self.left_out)} defective images left out ({shown}); "
                "include_defective takes them"
            )
        for note in (*by_reason((*self.broken, *self.unused)), self.difference):
            if note:
                warnings.warn(f"{name}: {note}", DataWarning, stacklevel=2)


def by_reason(files: Iterable[tuple[str, str]], shown: int = _SHOWN) -> list[str]:
    """A sentence for each reason why files are left out, naming the first of them."""
    reasons: dict[str, list[str]] = {}
    for file, why in files:
        reasons.setdefault(why, []).append(file)
    return [
        f"not taken ({why}): {', '.join(named[:shown])}"
        + (f" and {len(named) - shown} more" if len(named) > shown else "")
        for why, named in reasons.items()
    ]


class Domain(ABC):
    """A dataset whose splits can be opened; register it with ``register_domain``."""

    name: ClassVar[str]
    facts: ClassVar[Facts]
    options_model: ClassVar[type[BaseModel]] = Section  # no options
    needs_data_dir: ClassVar[bool] = True
    configs: ClassVar[tuple[str, ...]] = ()  # the first one is the default

    @abstractmethod
    def open(self, split: str, data_dir: Path | None, config: str | None, options: Any) -> Opened:
        """Find one split; ``config`` and ``options`` have been validated."""

    @abstractmethod
    def splits(self, data_dir: Path | None, config: str | None, options: Any) -> tuple[str, ...]:
        """The splits with labels, whether or not they are there."""

    def space(self, options: Any) -> LabelSpace:
        """The classes that the labels are read as."""
        return CITYSCAPES

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        """The official number of images of a split, if known."""
        default = self.facts.images if config == self.chosen_config(None) else {}
        return self.facts.images_of.get(config, default).get(split)

    def label(self, split: str, data_dir: Path | None, config: str | None, options: Given) -> str:
        """A short name for tables and reports."""
        chosen = f"-{config}" if config and config != self.chosen_config(None) else ""
        return f"{self.name}{chosen}/{split}"

    def chosen_config(self, config: str | None) -> str | None:
        """The config, or the default one; refuses a config that the domain does not have."""
        if config is None:
            return next(iter(self.configs), None)
        if not self.configs:
            raise UserError(f"the domain '{self.name}' has no configs, not '{config}' either")
        if config not in self.configs:
            raise UserError(
                f"unknown config '{config}' of {self.name}: use one of {', '.join(self.configs)}"
            )
        return config


def checked_options(domain: Domain, options: Given) -> BaseModel:
    name = f"options of the domain '{domain.name}'"
    return validated(domain.options_model, dict(options), name, "options")
