"""What every domain is: a name, options, a ``datasets`` builder and a label table."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
from pydantic import BaseModel

from revt_hf.errors import UserError
from revt_hf.labels import LabelTable

# Undecoded: PIL would destroy palette ids and 16-bit labels; see ``reading.Decode``.
FEATURES = datasets.Features(
    {
        "image": datasets.Image(decode=False),
        "label": datasets.Image(decode=False),
        "name": datasets.Value("string"),
    }
)


@dataclass(frozen=True)
class SourceFile:
    """What tells whether a file on disk is still the one that was seen before."""

    path: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "SourceFile":
        """Look at the file at ``path``."""
        status = path.stat()
        return cls(str(path), status.st_size, status.st_mtime_ns)


def fingerprint(parts: Iterable[Any]) -> str:
    """A short hash of dataclasses or JSON values.

    ``datasets`` keys its cache on the folder's name alone and would not see a changed file.
    """
    digest = hashlib.sha256()
    for part in parts:
        value = astuple(part) if isinstance(part, SourceFile) else part
        digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()[:32]


class Domain(ABC):
    """A registered domain."""

    name: ClassVar[str]
    options_model: ClassVar[type[BaseModel]]
    needs_data_dir: ClassVar[bool]

    @abstractmethod
    def builder(
        self, split: str, data_dir: Path | None, config: str | None, options: Any, **kwargs: Any
    ) -> datasets.DatasetBuilder:
        """The builder of one split.

        Raises:
            UserError: the data are missing or incomplete, or the split or config is unknown.
        """

    @abstractmethod
    def table(self, options: Any) -> LabelTable:
        """The look-up table from the files' label values to train ids."""

    @abstractmethod
    def label(self, split: str, data_dir: Path | None, config: str | None) -> str:
        """A short name for tables and reports."""

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

    def no_config(self, config: str | None) -> None:
        """Refuse a config where the domain has none."""
        if config is not None:
            raise UserError(f"the domain '{self.name}' has no configs, not '{config}' either")
