"""Ways in which a data set can lie on disk, and finding out which one it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from revt_hf.domains.base import SourceFile
from revt_hf.domains.files import list_files
from revt_hf.errors import UserError
from revt_hf.labels import LabelTable


@dataclass(frozen=True)
class Layout:
    """Where pictures and labels lie below ``data_dir``; the rest of their names is the same.

    In folders, ``{split}`` stands for the split's folder, ``{name}`` for its name, and ``{part}``
    for each of its parts.

    Attributes:
        kind: as downloaded, or converted for mmsegmentation or the original implementation.
        images: folder of the pictures.
        labels: folder of the labels.
        image_suffix: end of a picture's name that its label does not share.
        label_suffix: end of a label's name.
        table: from label values to train ids.
        folders: the folders of splits that are called otherwise.
        parts: all of them together are the split.
        counted: whether the official number of pictures can be expected here.
    """

    kind: Literal["official", "converted"]
    images: str
    labels: str
    image_suffix: str
    label_suffix: str
    table: LabelTable
    folders: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    counted: bool = True

    def folder_pairs(self, split: str) -> list[tuple[str, str, str]]:
        """(prefix of the names, folder of pictures, folder of labels) of a split."""

        def filled(template: str, part: str) -> str:
            folder = self.folders.get(split, split)
            named = template.replace("{split}", folder).replace("{name}", split)
            return named.replace("{part}", part)

        return [
            (f"{part}/" if part else "", filled(self.images, part), filled(self.labels, part))
            for part in self.parts or ("",)
        ]

    def described(self, split: str) -> str:
        """``images/*.png with labels/*.png``."""
        _, images, labels = self.folder_pairs(split)[0]
        return f"{images}/*{self.image_suffix} with {labels}/*{self.label_suffix}"


@dataclass(frozen=True)
class Pair:
    """A picture and its label; ``name`` is the picture's path without folder and suffix."""

    image: SourceFile
    label: SourceFile
    name: str


@dataclass(frozen=True)
class Match:
    """A layout that was found, with the pictures of a split.

    Attributes:
        layout: which one.
        root: the folder that its paths start from.
        pairs: by name, in order of name.
        unlabelled: names of pictures without a label -> (picture, where the label should be).
    """

    layout: Layout
    root: Path
    pairs: dict[str, Pair]
    unlabelled: dict[str, tuple[str, str]]


class Finder:
    """Looks for layouts below a folder; every folder is listed once."""

    def __init__(self, root: Path, wrappers: Sequence[str] = ("",)) -> None:
        self._root = root
        self._places = [root / wrapper for wrapper in wrappers if (root / wrapper).is_dir()]
        self._listings: dict[Path, dict[str, SourceFile]] = {}

    def find(self, layouts: Sequence[Layout], split: str, domain: str) -> Match:
        """The first layout, in the given order, that has pictures with labels.

        Raises:
            UserError: none has; the message says what was looked for.
        """
        reasons = []
        for layout in layouts:
            for place in self._places:
                match = self._match(place, layout, split)
                if isinstance(match, Match):
                    return match
                if place == self._root or not match.endswith(_NO_FOLDER):
                    reasons.append(f"{layout.kind}: {layout.described(split)} ({match})")
        raise UserError(
            f"split '{split}' of {domain} is not in {self._root}; looked for "
            + "; ".join(dict.fromkeys(reasons))
        )

    def _match(self, place: Path, layout: Layout, split: str) -> Match | str:
        pairs: dict[str, Pair] = {}
        unlabelled: dict[str, tuple[str, str]] = {}
        for prefix, images, labels in layout.folder_pairs(split):
            for folder in (images, labels):
                if not (place / folder).is_dir():
                    return f"{folder}{_NO_FOLDER}"
            label_files = self._list(place / labels)
            for path, image in self._list(place / images).items():
                if not path.endswith(layout.image_suffix):
                    continue
                if images == labels and path.endswith(layout.label_suffix):
                    continue
                stem = path.removesuffix(layout.image_suffix)
                label = label_files.get(stem + layout.label_suffix)
                if label is None:
                    where = place / labels / (stem + layout.label_suffix)
                    unlabelled[prefix + stem] = (image.path, str(where))
                else:
                    pairs[prefix + stem] = Pair(image, label, prefix + stem)
        if pairs:
            return Match(layout, place, dict(sorted(pairs.items())), unlabelled)
        if unlabelled:
            picture, missing = next(iter(unlabelled.values()))
            return (
                f"none of {len(unlabelled)} pictures has a label: {picture} has no label, "
                f"{missing} does not exist"
            )
        return f"no pictures *{layout.image_suffix} in {layout.folder_pairs(split)[0][1]}"

    def _list(self, folder: Path) -> dict[str, SourceFile]:
        if folder not in self._listings:
            self._listings[folder] = list_files(folder)
        return self._listings[folder]


_NO_FOLDER = " is missing"
