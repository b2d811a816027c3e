"""Files of a dataset: listings, split files, and finding the layout in which they lie."""

import errno
import os
import re
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from operator import eq
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from revt_hf.core.errors import UserError, readable
from revt_hf.data.domains.base import Layout, NotThereError

NOT_UTF8 = "its name is not UTF-8: rename it"
_OTHER_SUFFIX = "its suffix is not"
# A dangling link, one in a circle, or one through a file.
_DANGLING = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
_IMAGE = re.compile(r"\.(png|jpe?g|webp|bmp|tiff?|gif|ppm|pgm)$", re.IGNORECASE)
_EXTENSIONS = {"jpg": "jpe?g", "jpeg": "jpe?g", "tif": "tiff?", "tiff": "tiff?"}


class SourceFile(NamedTuple):
    """A file on disk with the properties that show whether it has changed."""

    path: str
    size: int
    modified_ns: int


class Pair(NamedTuple):
    """An image and its label; ``name`` is the image's path without folder and suffix."""

    image: SourceFile
    label: SourceFile
    name: str


def _stem_of(path: str, suffixes: Sequence[str]) -> str | None:
    """A path without its longest suffix among some, in any case, ``.jpg`` and ``.jpeg`` alike."""
    found = _suffix_pattern(tuple(suffixes)).search(path)
    return path[: found.start()] if found else None


def _exchanged(stem: str, before: str, after: str) -> str | None:
    """A stem with ``after`` at the beginning of its name, not ``before``; None without that."""
    folder, slash, name = stem.rpartition("/")
    if name[: len(before)].lower() != before.lower():
        return None
    return f"{folder}{slash}{after}{name[len(before) :]}"


@cache
def _suffix_pattern(suffixes: tuple[str, ...]) -> re.Pattern[str]:
    ends = []
    for suffix in suffixes:
        before, dot, extension = suffix.rpartition(".")
        known = _EXTENSIONS.get(extension.lower(), re.escape(extension))
        ends.append(re.escape(before + dot) + known)
    return re.compile(rf"(?:{'|'.join(ends)})\Z", re.IGNORECASE)


def list_files(folder: Path) -> tuple[dict[str, SourceFile], dict[str, str]]:
    """All regular files below a folder by relative path (with ``/``); links are followed.

    Also gives what is left out, with the reason: dangling links, pipes, devices, names that are not
    UTF-8. Hidden files (``._*`` of macOS archives) are in neither.
    """
    found: dict[str, SourceFile] = {}
    left_out: dict[str, str] = {}
    for name, status in _walk(str(folder), "", ()):
        shown = os.fsencode(name).decode("utf-8", "replace")
        if shown != name:
            left_out[shown] = NOT_UTF8
        elif status is None:
            left_out[name] = "a link to nothing"
        elif not stat.S_ISREG(status.st_mode):
            left_out[name] = "not a regular file"
        else:
            found[name] = SourceFile(f"{folder}/{name}", status.st_size, status.st_mtime_ns)
    return dict(sorted(found.items())), left_out


def _walk(
    folder: str, prefix: str, above: tuple[str, ...]
) -> Iterator[tuple[str, os.stat_result | None]]:
    """Relative paths of everything but folders and hidden files; None for a dangling link."""
    here = os.path.realpath(folder)
    if here in above:  # a link in a circle
        return
    # What cannot be read is refused: its images must not be passed over silently.
    with readable(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        status = None
        with readable(entry.path):
            try:
                status = entry.stat()
            except OSError as error:
                if error.errno not in _DANGLING:
                    raise
        name = prefix + entry.name
        if status is not None and stat.S_ISDIR(status.st_mode):
            yield from _walk(entry.path, f"{name}/", (*above, here))
        else:
            yield name, status


def read_split_file(
    path: Path, names: Collection[str], suffixes: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The names that a split file (UTF-8) lists, and its entries that match no name.

    A line is a name, a stem or a path, with or without suffix; a second column (the label's path,
    in some lists), blank lines and ``#`` comments are ignored. Leading folders may differ from
    those on disk as long as the rest is unambiguous.
    """
    with readable(f"the split file {path}"):
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    entries = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    if not entries:
        raise UserError(f"the split file {path} lists nothing")
    by_last_part = defaultdict(list)
    for name in names:
        by_last_part[PurePosixPath(name).name].append(name)
    found = {entry: _resolve(entry, by_last_part, suffixes) for entry in entries}
    known = [name for name in found.values() if name is not None]
    return list(dict.fromkeys(known)), [entry for entry in entries if found[entry] is None]


def _resolve(entry: str, by_last_part: dict[str, list[str]], suffixes: Sequence[str]) -> str | None:
    for text in (entry, re.split(r"[\s,;]", entry)[0]):
        path = text.replace("\\", "/")
        for stem in filter(None, (_stem_of(path, suffixes), _IMAGE.sub("", path), path)):
            candidates = by_last_part.get(PurePosixPath(stem).name, [])
            if stem in candidates:
                return stem
            # The shorter of two paths is the end of the longer one.
            parts = PurePosixPath(stem).parts[::-1]
            fitting = [
                name
                for name in candidates
                if all(map(eq, parts, reversed(PurePosixPath(name).parts)))
            ]
            if len(fitting) == 1:
                return fitting[0]
    return None


@dataclass(frozen=True)
class Match:
    """A layout that was found, with the images of a split."""

    layout: Layout
    data_dir: Path  # that was searched
    root: Path  # the folder that the layout's paths start from: this one, or one in it
    pairs: dict[str, Pair] = field(default_factory=dict)  # by name
    # Name of an image without label, or with more than one -> (file, problem).
    unusable: dict[str, tuple[str, str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)  # files that cannot be opened -> reason
    unused: dict[str, str] = field(default_factory=dict)  # that may have been meant -> reason

    @property
    def names(self) -> list[str]:
        return sorted({*self.pairs, *self.unusable})


class Finder:
    """Looks for layouts below a folder and below some folders in it; lists every folder once."""

    def __init__(self, root: Path, wrappers: Sequence[str] = (), download: str = "") -> None:
        self._root, self._download = root, download
        self._roots = [root / name for name in ("", *wrappers) if (root / name).is_dir()]
        self._list_files = cache(list_files)

    def find(self, layouts: Sequence[Layout], split: str, domain: str) -> Match:
        """The first layout that has images; NotThereError says what was looked for."""
        reasons: dict[str, None] = {}
        error: type[UserError] = NotThereError
        for layout, root in product(layouts, self._roots):
            pairs = layout.folder_pairs(split)
            match = Match(layout, self._root, root)
            folders = [folder for _, *both in pairs for folder in both]
            absent = [folder for folder in folders if not (root / folder).is_dir()]
            if absent:
                reason = f"{absent[0]} is missing"
            else:
                for part, images, labels in pairs:
                    self._pair(match, part, root / images, root / labels)
                if match.pairs:
                    _drop_others(match, layouts, split)
                    return match
                reason, wrong = _why_empty(match, split)
                error = UserError if wrong else error
            if root == self._root or not absent:
                reasons[f"{layout.kind}: {layout.described(split)} ({reason})"] = None
        source = (
            f"; it comes from {self._download}" if self._download and error is NotThereError else ""
        )
        looked_for = "; ".join(reasons)
        raise error(
            f"split '{split}' of {domain} is not in {self._root}; looked for {looked_for}{source}"
        )

    def _pair(self, match: Match, part: str, images: Path, labels: Path) -> None:
        ends, label_ends = match.layout.suffixes(part)
        before, label_before = match.layout.prefixes
        shared = images == labels
        in_images = self._by_stem(match, images, ends, before, shared)
        in_labels = self._by_stem(match, labels, label_ends, label_before, shared)
        for stem, files in sorted(in_images.items()):
            # In a shared folder the name of a label may end like that of an image.
            found = [f for f in files if not shared or _stem_of(f.path, label_ends) is None]
            if not found:
                continue
            label_stem = str(_exchanged(stem, before, label_before))
            named = in_labels.pop(label_stem, [])
            name = f"{part}/{stem}" if part else stem
            twice = next((files for files in (named, found) if len(files) > 1), None)
            if not named:
                missing = str(labels / (label_stem + label_ends[0]))
                what = f"the image {found[0].path} has no label: {missing} does not exist"
                match.unusable[name] = (missing, what)
            elif twice:
                both = f"{twice[0].path} and {twice[1].path} have the same name"
                match.unusable[name] = (twice[0].path, f"{both}: keep one of them")
            else:
                match.pairs[name] = Pair(found[0], named[0], name)
        for files in () if match.layout.more_labels else in_labels.values():
            match.unused.update({file.path: "a label without an image" for file in files})

    def _by_stem(
        self, match: Match, folder: Path, suffixes: Sequence[str], before: str, shared: bool
    ) -> dict[str, list[SourceFile]]:
        """The files with one of some suffixes, by the path before it; ``match`` takes the others.

        Unless images and labels share the folder: there, others are of the other kind.
        """
        found: dict[str, list[SourceFile]] = {}
        files, left_out = self._list_files(folder)
        ends = tuple(_IMAGE.sub("", suffix) for suffix in suffixes if _IMAGE.search(suffix))
        for path, file in files.items():
            stem = _stem_of(path, suffixes)
            known = None if stem is None else _exchanged(stem, before, before)
            if known is not None:
                found.setdefault(known, []).append(file)
            elif stem is not None:
                match.unused[file.path] = f"its name does not begin with {before}"
            # Only the extension differs: an image or label of the same kind.
            elif not shared and _IMAGE.search(path) and _IMAGE.sub("", path).endswith(ends):
                match.unused[file.path] = f"{_OTHER_SUFFIX} {' or '.join(suffixes)}"
        for path, reason in left_out.items():
            if reason == NOT_UTF8:  # a table cannot hold it
                raise UserError(f"the file name {path} in {folder} is not UTF-8: rename it")
            if _stem_of(path, suffixes) is not None:
                match.broken[str(folder / path)] = reason
        return found


def _drop_others(match: Match, layouts: Sequence[Layout], split: str) -> None:
    """Forget labels that belong to another layout of the same dataset."""
    own = {labels for _, _, labels in match.layout.folder_pairs(split)}
    folders = {labels for one in layouts for _, _, labels in one.folder_pairs(split)} - own
    foreign = tuple(f"{match.root / folder}/" for folder in folders)
    ends = {end for one in layouts for end in one.suffixes()[1]} - {*match.layout.suffixes()[1]}
    for path in list(match.unused):
        if path.startswith(foreign) or (ends and _stem_of(path, sorted(ends)) is not None):
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
    part, folder, _ = pairs[0]
    start = match.layout.prefixes[0]
    wanted = " or ".join(f"{start}*{suffix}" for suffix in match.layout.suffixes(part)[0])
    return f"no images {wanted} in {folder}{hint}", bool(others)
