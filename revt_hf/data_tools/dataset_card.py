"""Whether a dataset may be passed on, and the data card (``README.md``) that goes with it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import DatasetCardData

from revt_hf import __version__
from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import Domain, Opened
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, PALETTE
from revt_hf.hub.cards import license_metadata
from revt_hf.hub.commit import MARKER
from revt_hf.hub.places import is_place, last_part, without_places
from revt_hf.results.markdown import code, text, yaml_text

# Upper ends of the Hub's size categories.
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
_LARGEST = "1M<n<10M"


@dataclass(frozen=True)
class Contents:
    """What stands in an exported dataset.

    Attributes:
        domain: where it comes from.
        config: of the domain.
        options: of the domain, all of them.
        splits: every exported split, as it was found.
        max_size: (width, height) that images and labels were resized into; None: they were not.
        license: what the user named as the license; None where nobody had to.
        repository: Hub id that it goes to, if it goes there.
    """

    domain: Domain
    config: str | None
    options: Mapping[str, Any]
    splits: Mapping[str, Opened]
    max_size: tuple[int, int] | None
    license: str | None
    repository: str | None

    @property
    def is_own(self) -> bool:
        """Whether it is a folder of the user's, not a known dataset."""
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
    """Refuse to copy data that may not be passed on, or whose license nobody has named.

    Args:
        domain: of the data.
        license: as the user names it; case and spaces do not matter.

    Raises:
        UserError: it may not be passed on; or the license has to be named, or is another one.
    """
    sharing = domain.facts.sharing
    if sharing.allowed == "no":
        raise UserError(f"{domain.name} may not be passed on: {sharing.reason}")
    named = (license or "").strip()
    if domain.facts.kind == "any":
        if not named:
            raise UserError(f"{domain.name}: {sharing.reason}: name it with --license '...'")
        return
    right = domain.facts.license.split(" (")[0]
    if named and _plain(named) != _plain(right):
        raise UserError(f"the license of {domain.name} is '{right}', not '{named}'")
    if not named and sharing.allowed == "confirm":
        raise UserError(
            f"{domain.name}: {sharing.reason}: read the license, then confirm it with "
            f"--license '{right}'"
        )


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()


def card_text(contents: Contents) -> str:
    """The text of ``README.md``: metadata for the Hub, then the card, in Markdown.

    No path of this machine stands in it.
    """
    front = yaml_text(_metadata(contents).to_dict())
    body = "\n\n".join("\n".join(section) for section in _sections(contents))
    return f"---\n{front}---\n\n{body}\n"


def _metadata(contents: Contents) -> DatasetCardData:
    images = sum(opened.images for opened in contents.splits.values())
    fitting = (name for limit, name in _SIZES.items() if images < limit)
    files = [{"split": name, "path": f"data/{name}-*"} for name in contents.splits]
    return DatasetCardData(
        **_license(contents),
        task_categories=["image-segmentation"],
        pretty_name=contents.title,
        size_categories=next(fitting, _LARGEST),
        configs=[{"config_name": "default", "data_files": files}],
    )


def _license(contents: Contents) -> dict[str, Any]:
    identifier = contents.domain.facts.sharing.license_id
    if not contents.is_own and identifier != "other":
        return {"license": identifier}
    named = license_metadata(contents.license_text)
    # Of a known dataset only its own identifier counts, not one that its words resemble.
    return (
        named
        if contents.is_own
        else {"license_name": named.get("license_name"), "license": "other"}
    )


def _sections(contents: Contents) -> Iterator[list[str]]:
    yield [f"# {text(contents.title)}"]
    yield [MARKER]
    yield [
        f"Street scenes with a semantic label of {len(CLASSES)} classes for every pixel, written "
        f"by revt_hf {__version__} from {_origin(contents)}.",
    ]
    yield ["## Source", "", _source(contents)]
    yield ["## License", "", *_terms(contents)]
    yield ["## Images", "", *_counts(contents)]
    yield ["## Labels", "", *_classes(contents)]
    yield ["## Load", "", *_code(contents)]
    yield ["## Made with", "", "```yaml", _settings(contents), "```"]


def _origin(contents: Contents) -> str:
    if contents.is_own:
        return "a folder of images and labels"
    return f"the dataset {code(contents.domain.name)}"


def _source(contents: Contents) -> str:
    if contents.is_own:
        return "A folder of the publisher's own images and labels."
    if not contents.domain.needs_data_dir:
        return "Drawn by revt_hf itself: procedural scenes, no photographs."
    return f"The original comes from {contents.domain.facts.download}."


def _terms(contents: Contents) -> Iterator[str]:
    yield (
        f"{text(contents.license_text)}. Its terms apply to this copy too: read them before you "
        "use it or pass it on."
    )
    sharing = contents.domain.facts.sharing
    if sharing.allowed == "confirm" and not contents.is_own:
        yield (
            f"What revt_hf knows of it: {sharing.reason}; whoever wrote this copy confirmed to "
            "have read it."
        )
    elif contents.domain.needs_data_dir and not contents.is_own:
        yield f"What revt_hf knows of it: {sharing.reason}."


def _counts(contents: Contents) -> Iterator[str]:
    yield from ("| split | images |", "|---|---|")
    yield from (f"| {text(name)} | {opened.images} |" for name, opened in contents.splits.items())
    yield ""
    if contents.max_size:
        width, height = contents.max_size
        yield (
            f"Images (bilinear) and labels (nearest neighbour) are resized to fit {width}x"
            f"{height} pixels, their ratio kept, and stored as PNG without loss."
        )
    else:
        yield "Images have their original size and are not encoded anew."
    for name, opened in contents.splits.items():
        if opened.difference:
            differs = text(without_places(opened.difference))
            yield f"\nThe split {code(name)} is not the official one: {differs}."
        if opened.left_out:
            listed = text(", ".join(f"{last} ({why})" for last, why in opened.left_out.items()))
            yield f"\nLeft out of {code(name)} as defective: {listed}."


def _classes(contents: Contents) -> Iterator[str]:
    tables = sorted({opened.table.name for opened in contents.splits.values()})
    yield (
        "`label` is an 8-bit image with one channel; a pixel's value is the Cityscapes train id "
        f"of its class, {IGNORE_INDEX} is ignored. Made with the label table "
        + ", ".join(map(code, tables))
        + "."
    )
    yield from ("", "| id | name | colour (RGB) |", "|---|---|---|")
    for train_id, (name, colour) in enumerate(zip(CLASSES, PALETTE.tolist(), strict=True)):
        yield f"| {train_id} | {name} | {', '.join(map(str, colour))} |"
    yield f"| {IGNORE_INDEX} | ignored | |"


def _code(contents: Contents) -> Iterator[str]:
    where = contents.repository or "this folder, or its Hub id"
    split = next(iter(contents.splits))
    yield "```python"
    yield "from datasets import load_dataset"
    yield f'images = load_dataset("{where}", split="{split}")'
    yield 'image, label = images[0]["image"], images[0]["label"]  # Pillow; train ids'
    yield "```"


def _settings(contents: Contents) -> str:
    settings = {
        "domain": contents.domain.name,
        "config": contents.config,
        "options": _without_places(contents.options),
        "splits": list(contents.splits),
        "max_size": list(contents.max_size) if contents.max_size else None,
    }
    return yaml_text(settings).rstrip()


def _without_places(value: Any) -> Any:
    """An option's value; of absolute paths only the last part."""
    if isinstance(value, Mapping):
        return {without_places(str(k)): _without_places(inner) for k, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(inner) for inner in value]
    if isinstance(value, str) and is_place(value):
        return f".../{last_part(value)}"
    return without_places(value)
