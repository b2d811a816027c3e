"""Where images come from: the ``source`` and ``targets`` sections of a recipe."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from revt_hf.config.sections import ExpandedPath, Section


def _option_paths(value: Any, folder: str) -> Iterator[str]:
    """Options that may be paths, such as ``split_files``, relative to a data folder."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _option_paths(part, folder)
    elif isinstance(value, str) and (folder or os.sep in value):
        yield str(Path(folder, value.partition("{")[0]))


class DomainSpec(Section):
    """A registered domain with its folder, configuration and options."""

    domain: str
    data_dir: ExpandedPath | None = None
    config: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def inputs(self) -> list[str | None]:
        """Local paths that are read, where no output may be written."""
        return [self.data_dir, *_option_paths(self.options, self.data_dir or "")]


class Source(DomainSpec):
    """A training domain; validation always uses its own held-out split.

    ``weight`` is its share of a mixture. Training images are read from ``prepared``, a folder
    written by ``revt data prepare``, if given.
    """

    train: str = "train"
    val: str = "val"
    weight: Annotated[float, Field(gt=0, ge=1e-6, le=1e6)] = 1.0
    prepared: ExpandedPath | None = None

    @property
    def inputs(self) -> list[str | None]:
        return [*super().inputs, self.prepared]


class Target(DomainSpec):
    """An unseen domain: reported, never trained or selected on."""

    split: str = "val"
