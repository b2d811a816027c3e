"""Layouts in which a dataset can lie on disk, and finding out which one it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import NotThereError, SourceFile
from revt_hf.data.domains.files import NOT_UTF8, image_stem, list_files, stem_of
from revt_hf.data.labels import TRAIN_IDS, LabelTable

_OTHER_SUFFIX = "its suffix is not"


@dataclass(frozen=True)
class Layout:
    """Where images and labels lie below ``data_dir``; apart from these parts their names agree.

    In folders, ``{split}`` stands for the split's folder, ``{name}`` for its name, and ``{part}``
    for each of its parts. Upper and lower case of suffixes do not matter.

    Attributes:
        kind: as downloaded, or converted for mmsegmentation or the original implementation.
        images: folder of the images.
        labels: folder of the labels.
        image_suffix: end of an image's name that its label does not share, or several.
        label_suffix: end of a label's name, or several.
        table: maps label values to train ids.
        folders: folders of splits, where they are not the splits' names.
        parts: subsets that make up the split together.
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
    counted: bool = True
    config: str | None = None

    @property
    def suffixes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The ends of images' names, and those of labels' names."""
        images, labels = (
            (ends,) if isinstance(ends, str) else ends
            for ends in (self.image_suffix, self.label_suffix)
        )
        return images, labels

    def folder_pairs(self, split: str) -> list[tuple[str, str, str]]:
        """(prefix of the names, folder of images, folder of labels) of each part of a split."""

        def filled(template: str, part: str) -> str:
            named = template.replace("{split}", self.folders.get(split, split))
            return named.replace("{name}", split).replace("{part}", part)

        return [
            (f"{part}/" if part else "", filled(self.images, part), filled(self.labels, part))
            for part in self.parts
        ]

    def described(self, split: str) -> str:
        """``images/*.png with labels/*.png``."""
        _, images, labels = self.folder_pairs(split)[0]
        ends = product(*self.suffixes)
        return " or ".join(f"{images}/*{image} with {labels}/*{label}" for image, label in ends)


class Pair(NamedTuple):
    """An image and its label; ``name`` is the image's path without folder and suffix."""

    image: SourceFile
    label: SourceFile
    name: str


@dataclass(frozen=True)
class Match:
    """A layout that was found, with the images of a split."""

    layout: Layout
    data_dir: Path  # that was searched
    root: Path  # the folder that the layout's paths start from: this one, or one in it
    pairs: dict[str, Pair] = field(default_factory=dict)  # by name
    # Name of an image without label, or with more than one -> (file, problem).
    unusable: dict[str, tuple[str, str]] = field(default_factory=dict)
    # Images or labels that cannot be opened -> the reason.
    broken: dict[str, str] = field(default_factory=dict)
    # Files that may have been meant but are left out -> the reason.
    unused: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of all images, in order."""
        return sorted({*self.pairs, *self.unusable})


class Finder:
    """Looks for layouts below a folder and below some folders in it; lists every folder once."""

    def __init__(self, root: Path, wrappers: Sequence[str] = ()) -> None:
        self._root = root
        self._roots = [root / name for name in ("", *wrappers) if (root / name).is_dir()]
        self._listings: dict[Path, tuple[dict[str, SourceFile], dict[str, str]]] = {}

    def find(self, layouts: Sequence[Layout], split: str, domain: str) -> Match:
        """The first layout, in the given order, that has images with labels.

        Raises NotThereError, listing what was looked for, if no layout's folders are there.
        """
        reasons: dict[str, None] = {}
        error: type[UserError] = NotThereError
        for layout in layouts:
            pairs = layout.folder_pairs(split)
            for root in self._roots:
                match = Match(layout, self._root, root)
                absent = [
                    folder for pair in pairs for folder in pair[1:] if not (root / folder).is_dir()
                ]
                if absent:
                    reason = f"{absent[0]} is missing"
                else:
                    for prefix, images, labels in pairs:
                        self._pair(match, prefix, root / images, root / labels)
                    if match.pairs:
                        self._drop_others(match, layouts, split)
                        return match
                    reason, wrong = _why_empty(match, split)
                    error = UserError if wrong else error
                if root == self._root or not absent:
                    reasons[f"{layout.kind}: {layout.described(split)} ({reason})"] = None
        raise error(
            f"split '{split}' of {domain} is not in {self._root}; looked for {'; '.join(reasons)}"
        )

    def _pair(self, match: Match, prefix: str, images: Path, labels: Path) -> None:
        ends, label_ends = match.layout.suffixes
        shared = images == labels
        in_images = self._by_stem(match, images, ends, shared)
        in_labels = self._by_stem(match, labels, label_ends, shared)
        for stem, files in sorted(in_images.items()):
            # In a shared folder the name of a label may end like that of an image.
            found = [f for f in files if not shared or stem_of(f.path, label_ends) is None]
            if not found:
                continue
            named = in_labels.pop(stem, [])
            name = prefix + stem
            twice = next((files for files in (named, found) if len(files) > 1), None)
            if not named:
                missing = str(labels / (stem + label_ends[0]))
                what = f"the image {found[0].path} has no label: {missing} does not exist"
                match.unusable[name] = (missing, what)
            elif twice:
                both = f"{twice[0].path} and {twice[1].path} have the same name"
                match.unusable[name] = (twice[0].path, f"{both}: keep one of them")
            else:
                match.pairs[name] = Pair(found[0], named[0], name)
        for files in in_labels.values():
            match.unused.update({file.path: "a label without an image" for file in files})

    def _by_stem(
        self, match: Match, folder: Path, suffixes: Sequence[str], shared: bool
    ) -> dict[str, list[SourceFile]]:
        """The files with one of some suffixes, by the path before it; ``match`` takes the others.

        Unless images and labels share the folder: there, others are of the other kind.
        """
        found: dict[str, list[SourceFile]] = {}
        if folder not in self._listings:
            self._listings[folder] = list_files(folder)
        files, left_out = self._listings[folder]
        ends = tuple(end for suffix in suffixes if (end := image_stem(suffix)) is not None)
        for path, file in files.items():
            stem = stem_of(path, suffixes)
            if stem is not None:
                found.setdefault(stem, []).append(file)
            # Only the extension differs: an image or label of the same kind.
            elif not shared and (image_stem(path) or "\0").endswith(ends):
                match.unused[file.path] = f"{_OTHER_SUFFIX} {' or '.join(suffixes)}"
        for path, reason in left_out.items():
            if reason == NOT_UTF8:  # a table cannot hold it
                raise UserError(f"the file name {path} in {folder} is not UTF-8: rename it")
            if stem_of(path, suffixes) is not None:
                match.broken[str(folder / path)] = reason
        return found

    def _drop_others(self, match: Match, layouts: Sequence[Layout], split: str) -> None:
        """Forget labels that belong to another layout of the same dataset."""
        own = {labels for _, _, labels in match.layout.folder_pairs(split)}
        folders = {labels for one in layouts for _, _, labels in one.folder_pairs(split)} - own
        foreign = tuple(f"{match.root / folder}/" for folder in folders)
        ends = {end for one in layouts for end in one.suffixes[1]} - {*match.layout.suffixes[1]}
        for path in list(match.unused):
            if path.startswith(foreign) or (ends and stem_of(path, sorted(ends)) is not None):
                del match.unused[path]


def _why_empty(match: Match, split: str) -> tuple[str, bool]:
    """Why folders that are there have no image with a label, and whether there is an image."""
    if match.unusable:
        count, (_, example) = len(match.unusable), next(iter(match.unusable.values()))
        return f"none of {count} images has a label: {example}", True
    pairs = match.layout.folder_pairs(split)
    folders = tuple(f"{match.root / images}/" for _, images, _ in pairs)
    others = [
        path
        for path, why in match.unused.items()
        if why.startswith(_OTHER_SUFFIX) and path.startswith(folders)
    ]
    hint = f"; but {len(others)} with other suffixes, such as {others[0]}" if others else ""
    wanted = " or ".join(f"*{suffix}" for suffix in match.layout.suffixes[0])
    return f"no images {wanted} in {pairs[0][1]}{hint}", bool(others)
