"""The ``corruptions`` domain: another domain's images, corrupted while they are read.

Labels, splits and names are the base domain's; the table of paths is too, so nothing is copied.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from revt_hf.core.errors import UserError
from revt_hf.data.domains import corrupting
from revt_hf.data.domains.base import Domain, Facts, Opened, Sharing, checked_options, fingerprint
from revt_hf.data.domains.corrupting import KINDS, SEVERITIES, Kind, corrupt
from revt_hf.data.domains.registration import DOMAINS, register_domain

NAME = "corruptions"
_LABEL = re.compile(
    rf"(?P<base>.+)-(?P<kind>{'|'.join(KINDS)})-(?P<severity>[{SEVERITIES[0]}-{SEVERITIES[-1]}])"
    r"(-seed(?P<seed>\d+))?/(?P<split>[^/]+)"
)


class CorruptionsOptions(BaseModel):
    """Options of the ``corruptions`` domain.

    ``base`` is the domain that is corrupted, with ``base_config`` and ``base_options``; its folder
    is ``data_dir``. ``kind`` and ``severity`` (1 to 5) are those of ``docs/corruptions.md``;
    another ``seed`` draws other rain.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    base_config: str | None = None
    base_options: dict[str, Any] = {}
    kind: Kind
    severity: Annotated[int, Field(ge=SEVERITIES[0], le=SEVERITIES[-1])] = 3
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


@dataclass(frozen=True)
class Corruption:
    """What happens to images, and to those of which split (by its label)."""

    kind: Kind
    severity: int
    seed: int
    of: str

    def __call__(self, image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """The image (H, W, 3), uint8, corrupted; see :func:`corrupt`."""
        return corrupt(image, name, self.kind, self.severity, self.seed)

    @property
    def label(self) -> str:
        """A short name for tables, such as ``camvid-fog-3/val``."""
        base, _, split = self.of.rpartition("/")
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{base}-{self.kind}-{self.severity}{seed}/{split}"


def corruption_of(label: str) -> Corruption | None:
    """What a label of this domain says; None if it is not one."""
    found = _LABEL.fullmatch(label)
    if found is None:
        return None
    kind = next(kind for kind in KINDS if kind == found["kind"])
    of = f"{found['base']}/{found['split']}"
    return Corruption(kind, int(found["severity"]), int(found["seed"] or 0), of)


@register_domain
class CorruptionsDomain(Domain):
    """See the module."""

    name = NAME
    facts = Facts(
        kind="any",
        license="that of the base domain",
        download="nowhere: another domain's images, corrupted while they are read",
        sharing=Sharing("no", "they are made while they are read: pass on the base domain"),
    )
    options_model = CorruptionsOptions

    def open(self, split: str, data_dir: Path | None, config: str | None, options: Any) -> Opened:
        base, base_config, base_options = self._base(options)
        if data_dir is not None and not base.needs_data_dir:
            raise UserError(f"the domain '{base.name}' is built in: it takes no data_dir")
        opened = base.open(split, data_dir, base_config, base_options)
        corruption = self._corruption(split, data_dir, options)
        code = Path(corrupting.__file__).read_text(encoding="utf-8")
        drawn_by = [code, version("albumentations")]
        drawn = [corruption.kind, corruption.severity, corruption.seed]
        return replace(
            opened,
            change=corruption,
            content=fingerprint([opened.content, *drawn, *drawn_by]),
            found=f"{opened.found}; {corruption.kind} of severity {corruption.severity}",
        )

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        base, base_config, base_options = self._base(options)
        return base.expected(split, base_config, base_options)

    def splits(self, data_dir: Path | None, config: str | None, options: Any) -> tuple[str, ...]:
        base, base_config, base_options = self._base(options)
        return base.splits(data_dir, base_config, base_options)

    def label(
        self, split: str, data_dir: Path | None, config: str | None, options: Mapping[str, Any]
    ) -> str:
        return self._corruption(split, data_dir, checked_options(self, options)).label

    def _base(self, options: Any) -> tuple[Domain, str | None, BaseModel]:
        if options.base == self.name or options.base not in DOMAINS:
            bases = ", ".join(name for name in DOMAINS if name != self.name)
            raise UserError(f"{self.name}: unknown base '{options.base}': use one of {bases}")
        base = DOMAINS[options.base]
        settings = checked_options(base, options.base_options)
        return base, base.chosen_config(options.base_config), settings

    def _corruption(self, split: str, data_dir: Path | None, options: Any) -> Corruption:
        base, base_config, _ = self._base(options)
        of = base.label(split, data_dir, base_config, options.base_options)
        return Corruption(options.kind, options.severity, options.seed, of)
