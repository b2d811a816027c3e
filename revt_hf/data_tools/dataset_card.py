"""Check that a dataset may be passed on, and write the card (``README.md``) of the copy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import DatasetCardData

from revt_hf import __version__
from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import Domain, Opened
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, PALETTE
from revt_hf.hub.cards import license_metadata, render_card
from revt_hf.hub.commit import MARKER
from revt_hf.hub.local_paths import without_local_paths
from revt_hf.results.markdown import yaml_text

# Upper ends of the Hub's size categories.
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


@dataclass(frozen=True)
class Contents:
    """The contents of an exported dataset."""

    domain: Domain
    config: str | None
    options: Mapping[str, Any]  # of the domain, all of them
    splits: Mapping[str, Opened]
    max_size: tuple[int, int] | None  # (width, height); None: not resized
    license: str | None  # that the user named
    repository: str | None  # Hub ID that it is pushed to

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own folder, not a known dataset."""
        return self.domain.facts.kind == "any"

    @property
    def license_text(self) -> str:
        """The license in words."""
        own = self.license if self.is_own else None
        return " ".join((own or self.domain.facts.license).split())

    @property
    def title(self) -> str:
        """A short name for people."""
        name = "Street scenes" if self.is_own else self.domain.name
        config = f" ({self.config})" if self.config else ""
        size = f", {self.max_size[0]}x{self.max_size[1]}" if self.max_size else ""
        return f"{name}{config}{size}, {len(CLASSES)} Cityscapes classes"


def check_sharing(domain: Domain, license: str | None) -> None:
    """Refuse to copy data that may not be passed on, or whose license nobody has named."""
    sharing = domain.facts.sharing
    if sharing.allowed == "no":
        raise UserError(f"{domain.name} may not be passed on: {sharing.reason}")
    named = "".join((license or "").split()).casefold()
    if domain.facts.kind == "any":
        if not named:
            raise UserError(f"{domain.name}: {sharing.reason}: name it with --license '...'")
        return
    right = domain.facts.license.split(" (")[0]
    if named and named != "".join(right.split()).casefold():
        given = (license or "").strip()
        raise UserError(f"the license of {domain.name} is '{right}', not '{given}'")
    if not named and sharing.allowed == "confirm":
        raise UserError(
            f"{domain.name}: {sharing.reason}: read the license, then confirm it with "
            f"--license '{right}'"
        )


def card_text(contents: Contents) -> str:
    """The text of ``README.md``, with metadata for the Hub and without paths of this machine."""
    images = sum(opened.images for opened in contents.splits.values())
    fitting = (name for limit, name in _SIZES.items() if images < limit)
    parquet = [{"split": name, "path": f"data/{name}-*"} for name in contents.splits]
    identifier = contents.domain.facts.sharing.license_id
    license = license_metadata(contents.license_text)
    if not contents.is_own:
        # Of a known dataset only its own identifier counts, not one that its words resemble.
        license = {**(license if identifier == "other" else {}), "license": identifier}
    metadata = DatasetCardData(
        **license,
        task_categories=["image-segmentation"],
        pretty_name=contents.title,
        size_categories=next(fitting, "1M<n<10M"),
        configs=[{"config_name": "default", "data_files": parquet}],
    )
    settings = {
        "domain": contents.domain.name,
        "config": contents.config,
        "options": without_local_paths(contents.options),
        "splits": list(contents.splits),
        "max_size": list(contents.max_size) if contents.max_size else None,
    }
    return render_card(
        "dataset_card.md.jinja",
        contents=contents,
        sharing=contents.domain.facts.sharing,
        front=yaml_text(metadata.to_dict()),
        marker=MARKER,
        version=__version__,
        classes=dict(zip(CLASSES, PALETTE.tolist(), strict=True)),
        ignored=IGNORE_INDEX,
        tables=sorted({opened.table.name for opened in contents.splits.values()}),
        differences={
            name: without_local_paths(opened.difference)
            for name, opened in contents.splits.items()
            if opened.difference
        },
        settings=yaml_text(settings),
    )
