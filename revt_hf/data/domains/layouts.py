"""Ways in which a dataset can lie on disk, and finding out which one it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import NotThereError, SourceFile
from revt_hf.data.domains.files import NOT_UTF8, image_stem, list_files, stem_of
from revt_hf.data.labels import LabelTable


@dataclass(frozen=True)
class Layout:
    """Where images and labels lie below ``data_dir``; the rest of their names is the same.

    In folders, ``{split}`` stands for the split's folder, ``{name}`` for its name, and ``{part}``
    for each of its parts.

    Attributes:
        kind: as downloaded, or converted for mmsegmentation or the original implementation.
        images: folder of the images.
        labels: folder of the labels.
        image_suffix: end of an image's name that its label does not share, or several; see
            :func:`revt_hf.data.domains.files.stem_of`.
        label_suffix: end of a label's name, or several.
        table: from label values to train ids.
        folders: the folders of splits that are called otherwise.
        parts: all of them together are the split.
        counted: whether the official number of images can be expected here.
    """

    kind: Literal["official", "converted"]
    images: str
    labels: str
    image_suffix: str | tuple[str, ...]
    label_suffix: str | tuple[str, ...]
    table: LabelTable
    folders: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    counted: bool = True

    @property
    def image_suffixes(self) -> tuple[str, ...]:
        """The ends of images' names."""
        return (self.image_suffix,) if isinstance(self.image_suffix, str) else self.image_suffix

    @property
    def label_suffixes(self) -> tuple[str, ...]:
        """The ends of labels' names."""
        return (self.label_suffix,) if isinstance(self.label_suffix, str) else self.label_suffix

    def folder_pairs(self, split: str) -> list[tuple[str, str, str]]:
        """(prefix of the names, folder of images, folder of labels) of a split."""

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
        return " or ".join(
            f"{images}/*{image} with {labels}/*{label}"
            for image in self.image_suffixes
            for label in self.label_suffixes
        )


@dataclass(frozen=True)
class Pair:
    """An image and its label; ``name`` is the image's path without folder and suffix."""

    image: SourceFile
    label: SourceFile
    name: str


@dataclass(frozen=True)
class Match:
    """A layout that was found, with the images of a split.

    Attributes:
        layout: which one.
        root: the folder that its paths start from.
        pairs: by name.
        unusable: names of images that have no label, or more than one -> (file, what is wrong).
        broken: files that should be images or labels but cannot be opened, with the reason.
        unused: files that may have been meant but are not taken, with the reason.
    """

    layout: Layout
    root: Path
    pairs: dict[str, Pair] = field(default_factory=dict)
    unusable: dict[str, tuple[str, str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def add(self, other: "Match") -> None:
        """Take in what another part of the split has."""
        self.pairs.update(other.pairs)
        self.unusable.update(other.unusable)
        self.broken.update(other.broken)
        self.unused.update(other.unused)


class Finder:
    """Looks for layouts below a folder; every folder is listed once."""

    def __init__(self, root: Path, wrappers: Sequence[str] = ("",)) -> None:
        self._root = root
        self._places = [root / wrapper for wrapper in wrappers if (root / wrapper).is_dir()]
        self._listings: dict[Path, tuple[dict[str, SourceFile], dict[str, str]]] = {}

    def find(self, layouts: Sequence[Layout], split: str, domain: str) -> Match:
        """The first layout, in the given order, that has images with labels.

        Raises:
            NotThereError: no layout's folders are there; the message says what was looked for.
            UserError: they are, but without images and labels.
        """
        reasons = []
        for layout in layouts:
            for place in self._places:
                match = self._match(place, layout, split)
                if isinstance(match, Match):
                    others = [other for other in layouts if other is not layout]
                    self._drop_others(match, others, split)
                    return match
                if place == self._root or not match.endswith(_NO_FOLDER):
                    reasons.append(f"{layout.kind}: {layout.described(split)} ({match})")
        wrong = any(_NO_LABELS in reason or _OTHERS in reason for reason in reasons)
        raise (UserError if wrong else NotThereError)(
            f"split '{split}' of {domain} is not in {self._root}; looked for "
            + "; ".join(dict.fromkeys(reasons))
        )

    def _match(self, place: Path, layout: Layout, split: str) -> Match | str:
        match = Match(layout, place)
        for prefix, images, labels in layout.folder_pairs(split):
            for folder in (images, labels):
                if not (place / folder).is_dir():
                    return f"{folder}{_NO_FOLDER}"
            self._pair(match, prefix, place / images, place / labels)
        if match.pairs:
            ordered = dict(sorted(match.pairs.items()))
            return replace(match, pairs=ordered)
        if match.unusable:
            count, (_, example) = len(match.unusable), next(iter(match.unusable.values()))
            return f"none of {count} images {_NO_LABELS}: {example}"
        folders = tuple(f"{place / images}/" for _, images, _ in layout.folder_pairs(split))
        others = [
            path
            for path, why in match.unused.items()
            if why.startswith(_OTHER_SUFFIX) and path.startswith(folders)
        ]
        hint = f"; but {len(others)} {_OTHERS}, such as {others[0]}" if others else ""
        wanted = " or ".join(f"*{suffix}" for suffix in layout.image_suffixes)
        return f"no images {wanted} in {layout.folder_pairs(split)[0][1]}{hint}"

    def _pair(self, match: Match, prefix: str, images: Path, labels: Path) -> None:
        layout = match.layout
        shared = images == labels
        apart = layout.label_suffixes if shared else ()
        by_stem = self._by_stem(match, images, layout.image_suffixes, shared, apart)
        labelled = self._by_stem(match, labels, layout.label_suffixes, shared)
        for stem, found in by_stem.items():
            named = labelled.pop(stem, [])
            name = prefix + stem
            for files in (found, named):
                if len(files) > 1:
                    both = f"{files[0].path} and {files[1].path} have the same name"
                    match.unusable[name] = (files[0].path, f"{both}: keep one of them")
            if not named:
                missing = labels / (stem + layout.label_suffixes[0])
                what = f"the image {found[0].path} has no label: {missing} does not exist"
                match.unusable[name] = (str(missing), what)
            elif name not in match.unusable:
                match.pairs[name] = Pair(found[0], named[0], name)
        for files in labelled.values():
            match.unused.update({file.path: "a label without an image" for file in files})

    def _by_stem(
        self,
        match: Match,
        folder: Path,
        suffixes: Sequence[str],
        shared: bool,
        apart: Sequence[str] = (),
    ) -> dict[str, list[SourceFile]]:
        """The files of a folder that have one of some suffixes, by what stands before it.

        Args:
            match: takes what is left out.
            folder: of images or labels.
            suffixes: what is looked for.
            shared: whether the folder holds images and labels.
            apart: suffixes of files that are something else.
        """
        found: dict[str, list[SourceFile]] = {}
        files, left_out = self._list(folder)
        ends = [image_stem(suffix) for suffix in suffixes]
        for path, file in files.items():
            if apart and stem_of(path, apart) is not None:
                continue
            stem = stem_of(path, suffixes)
            if stem is not None:
                found.setdefault(stem, []).append(file)
            # Only the extension is another one: an image or label of the same kind.
            elif not shared and any(
                (image_stem(path) or "\0").endswith(end) for end in ends if end is not None
            ):
                match.unused[file.path] = f"{_OTHER_SUFFIX} {' or '.join(suffixes)}"
        for path, reason in left_out.items():
            if stem_of(path, suffixes) is not None:
                match.broken[str(folder / path)] = reason
        return found

    def _drop_others(self, match: Match, others: Sequence[Layout], split: str) -> None:
        """Forget labels that belong to another layout of the same dataset."""
        folders = [
            f"{match.root / labels}/"
            for other in others
            for _, _, labels in other.folder_pairs(split)
            if labels not in [own for _, _, own in match.layout.folder_pairs(split)]
        ]
        suffixes = [
            suffix
            for other in others
            for suffix in other.label_suffixes
            if suffix not in match.layout.label_suffixes
        ]
        for path in list(match.unused):
            foreign = suffixes and stem_of(path, suffixes) is not None
            if foreign or path.startswith(tuple(folders)):
                del match.unused[path]

    def _list(self, folder: Path) -> tuple[dict[str, SourceFile], dict[str, str]]:
        if folder not in self._listings:
            left_out: dict[str, str] = {}
            files = list_files(folder, left_out)
            for name, reason in left_out.items():
                if reason == NOT_UTF8:
                    raise UserError(f"the file name {name} in {folder} is not UTF-8: rename it")
            self._listings[folder] = (files, left_out)
        return self._listings[folder]


_NO_FOLDER = " is missing"
_NO_LABELS = "has a label"
_OTHERS = "with other suffixes"
_OTHER_SUFFIX = "its suffix is not"
