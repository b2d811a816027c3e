"""The interface of a domain: facts, options, and splits that can be opened."""

import hashlib
import json
import logging
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import datasets
from pydantic import BaseModel

from revt_hf.config.yaml_files import Section, validated
from revt_hf.core.errors import DataWarning, UserError, counted
from revt_hf.data.labels import LabelTable
from revt_hf.data.reading import Decode

# Undecoded: PIL would destroy palette ids and 16-bit labels; see ``reading.Decode``.
FEATURES = datasets.Features(
    {
        "image": datasets.Image(decode=False),
        "label": datasets.Image(decode=False),
        "name": datasets.Value("string"),
    }
)
LOG = logging.getLogger("revt_hf.data.domains")
_SHOWN = 3


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
    """

    license: str
    download: str
    sharing: Sharing
    images: Mapping[str, int] = field(default_factory=dict)
    images_of: Mapping[str | None, Mapping[str, int]] = field(default_factory=dict)
    kind: Literal["synthetic", "real", "any"] = "real"


class SourceFile(NamedTuple):
    """A file on disk with the properties that show whether it has changed."""

    path: str
    size: int
    modified_ns: int


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
    missing: tuple[tuple[str, str], ...] = ()  # files that should be there, each with the problem
    broken: tuple[tuple[str, str], ...] = ()  # files that cannot be opened, each with the reason
    unused: tuple[tuple[str, str], ...] = ()  # files that may have been meant, each with the reason
    left_out: Mapping[str, str] = field(default_factory=dict)  # images known to be defective

    @property
    def table(self) -> LabelTable:
        """The table that maps the label files' values to train ids."""
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


def arrow_split(split: str) -> str:
    """A split's name for ``datasets``, which only allows words and gives ``all`` a meaning."""
    return f"split_{re.sub(r'[^0-9A-Za-z]', '_', split)}"


class DomainOptions(Section):
    """Options of a domain; by default there are none."""


class Domain(ABC):
    """A dataset whose splits can be opened; register it with ``register_domain``."""

    name: ClassVar[str]
    facts: ClassVar[Facts]
    options_model: ClassVar[type[BaseModel]] = DomainOptions
    needs_data_dir: ClassVar[bool] = True
    # The first one is the default.
    configs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def open(self, split: str, data_dir: Path | None, config: str | None, options: Any) -> Opened:
        """Find one split; ``config`` and ``options`` have been validated."""

    @abstractmethod
    def splits(self, data_dir: Path | None, config: str | None, options: Any) -> tuple[str, ...]:
        """The splits with labels, whether or not they are there."""

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        """The official number of images of a split, if known."""
        default = self.facts.images if config == self.chosen_config(None) else {}
        return self.facts.images_of.get(config, default).get(split)

    def label(
        self, split: str, data_dir: Path | None, config: str | None, options: Mapping[str, Any]
    ) -> str:
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

    def existing(self, data_dir: Path | None) -> Path:
        """``data_dir`` as an absolute path; refuses one that is not given or does not exist."""
        if data_dir is None:
            raise UserError(f"the domain '{self.name}' needs data_dir, the folder of its data")
        if not data_dir.is_dir():
            raise UserError(f"data_dir {data_dir} is not a folder")
        return data_dir.resolve()


def checked_options(domain: Domain, options: Mapping[str, Any]) -> BaseModel:
    """A domain's options, validated."""
    name = f"options of the domain '{domain.name}'"
    return validated(domain.options_model, dict(options), name, "options")
