"""What every domain is: facts, options, and splits that can be opened."""

import hashlib
import json
import logging
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from revt_hf.config.sections import validation_sentence
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
    """A split that is not there at all, which is no fault of the data that are."""


@dataclass(frozen=True)
class Sharing:
    """Whether a dataset's images may be passed on.

    Attributes:
        allowed: ``yes``; ``no``; or ``confirm``: the license is known to allow it, but only at
            second hand, so the user has to name it.
        reason: a sentence for those who are refused or asked.
        license_id: the Hub's identifier of the license (``cc-by-nc-sa-4.0``, ``other``).
    """

    allowed: Literal["yes", "no", "confirm"]
    reason: str
    license_id: str = "other"


@dataclass(frozen=True)
class Facts:
    """What a newcomer asks about a dataset.

    Attributes:
        kind: where the images come from.
        license: its name, or its gist.
        download: where it comes from, in words.
        sharing: whether it may be passed on.
        images: labelled images of each split of the default config.
    """

    kind: Literal["synthetic", "real", "any"]
    license: str
    download: str
    sharing: Sharing
    images: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceFile:
    """What tells whether a file on disk is still the one that was seen before."""

    path: str
    size: int
    modified_ns: int


def fingerprint(parts: Iterable[Any]) -> str:
    """A short hash of dataclasses or JSON values.

    ``datasets`` keys its cache on the folder's name alone and would not see a changed file.
    """
    digest = hashlib.sha256()
    for part in parts:
        value = astuple(part) if isinstance(part, SourceFile) else part
        digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Opened:
    """One split of a domain: found on disk, and ready to be read.

    Attributes:
        builder: makes the ``datasets`` builder; takes ``cache_dir``.
        table: from the label files' values to train ids.
        layout: how the files lie: ``official``, ``converted``, or ``built-in``.
        found: a sentence on where they were found.
        images: how many images the split has here.
        content: a hash that moves when an image comes, goes or changes.
        expected: how many the official split has, as far as that is known.
        missing: files that should be there, with what is wrong about that.
        broken: files that should be images or labels but cannot be opened, with the reason.
        unused: files that may have been meant but are not taken, with the reason.
        left_out: images that are known to be defective and were left out.
        fit_labels: see :class:`revt_hf.data.reading.Decode`.
        change: see there too.
        follow_exif: see there too.
    """

    builder: Callable[..., datasets.DatasetBuilder]
    table: LabelTable
    layout: str
    found: str
    images: int
    content: str
    expected: int | None = None
    missing: tuple[tuple[str, str], ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    unused: tuple[tuple[str, str], ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    fit_labels: bool = False
    change: Callable[[NDArray[np.uint8], str], NDArray[np.uint8]] | None = None
    follow_exif: bool | None = None

    @property
    def decode(self) -> Decode:
        """What makes arrays of the builder's rows."""
        return Decode(self.table, self.fit_labels, self.change, self.follow_exif)

    @property
    def difference(self) -> str | None:
        """How the number of images differs from the official one; None if it does not."""
        if self.expected in (None, self.images):
            return None
        away = abs(self.images - int(self.expected or 0))
        word = "missing" if self.images < int(self.expected or 0) else "too many"
        return f"{counted(self.images, 'image')}, officially {self.expected} ({away} {word})"

    def check(self, name: str) -> None:
        """Say what was found; warn of a number that is not the official one.

        Raises:
            UserError: a file is missing.
        """
        if self.missing:
            more = f" (and {len(self.missing) - 1} more like it)" if len(self.missing) > 1 else ""
            raise UserError(f"{self.missing[0][1]}{more}")
        LOG.info("%s: %s", name, self.found)
        if self.left_out:
            shown = ", ".join(list(self.left_out)[:_SHOWN])
            dots = ", ..." if len(self.left_out) > _SHOWN else ""
            LOG.info(
                "%s: %d defective images left out (%s%s); include_defective takes them",
                name,
                len(self.left_out),
                shown,
                dots,
            )
        for what in [*by_reason(self.broken), *by_reason(self.unused)]:
            warnings.warn(f"{name}: {what}", DataWarning, stacklevel=2)
        if self.difference:
            warnings.warn(f"{name}: {self.difference}", DataWarning, stacklevel=2)


def by_reason(files: Iterable[tuple[str, str]], shown: int = _SHOWN) -> list[str]:
    """A sentence for each reason why files are not taken, with the first of them by name."""
    reasons: dict[str, list[str]] = {}
    for file, why in files:
        reasons.setdefault(why, []).append(file)
    return [
        f"not taken ({why}): {', '.join(named[:shown])}"
        + (f" and {len(named) - shown} more" if len(named) > shown else "")
        for why, named in reasons.items()
    ]


def arrow_split(split: str) -> str:
    """How ``datasets`` calls a split: it takes words only, and ``all`` has a meaning of its own."""
    return f"split_{re.sub(r'[^0-9A-Za-z]', '_', split)}"


class NoOptions(BaseModel):
    """A domain without options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Domain(ABC):
    """A registered domain."""

    name: ClassVar[str]
    facts: ClassVar[Facts]
    options_model: ClassVar[type[BaseModel]] = NoOptions
    needs_data_dir: ClassVar[bool] = True
    # The first one is the default.
    configs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def open(self, split: str, data_dir: Path | None, config: str | None, options: Any) -> Opened:
        """Find one split; ``config`` and ``options`` have been checked.

        Raises:
            UserError: the data are not there, or the split is unknown.
        """

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        """The official number of images of a split, as far as it is known."""
        return self.facts.images.get(split) if config == self.chosen_config(None) else None

    @abstractmethod
    def splits(self, data_dir: Path | None, config: str | None, options: Any) -> tuple[str, ...]:
        """The splits with labels, whether or not they are there."""

    def label(
        self, split: str, data_dir: Path | None, config: str | None, options: Mapping[str, Any]
    ) -> str:
        """A short name for tables and reports."""
        chosen = config if config and config != next(iter(self.configs), None) else ""
        return f"{self.name}{'-' if chosen else ''}{chosen}/{split}"

    def chosen_config(self, config: str | None) -> str | None:
        """The config, or the default one.

        Raises:
            UserError: the domain has no such config.
        """
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
        """``data_dir`` as an absolute path.

        Raises:
            UserError: it is not given or does not exist.
        """
        if data_dir is None:
            raise UserError(f"the domain '{self.name}' needs data_dir, the folder of its data")
        if not data_dir.is_dir():
            raise UserError(f"data_dir {data_dir} is not a folder")
        return data_dir.resolve()


def checked_options(domain: Domain, options: Mapping[str, Any]) -> BaseModel:
    """A domain's options, validated.

    Raises:
        UserError: an option that it does not have, or a value that does not fit.
    """
    try:
        return domain.options_model.model_validate(dict(options))
    except ValidationError as error:
        where = f"options of the domain '{domain.name}'"
        raise UserError(
            f"{where}: {validation_sentence(domain.options_model, error, 'options')}"
        ) from error
