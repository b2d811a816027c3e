"""Files of a dataset: recursive listings, and lists of names in split files."""

import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import SourceFile

NOT_UTF8 = "its name is not UTF-8: rename it"
# A link to nothing, in a circle, or through a file.
_NOTHING_THERE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
_IMAGE = re.compile(r"\.(png|jpe?g|webp|bmp|tiff?|gif|ppm|pgm)$", re.IGNORECASE)
_EXTENSIONS = {"jpg": "jpe?g", "jpeg": "jpe?g", "tif": "tiff?", "tiff": "tiff?"}


def stem_of(path: str, suffixes: Sequence[str]) -> str | None:
    """A path without the longest of some suffixes that it has; None if it has none.

    Upper and lower case do not matter, nor does ``.jpg`` for ``.jpeg``.
    """
    found = _suffix_pattern(tuple(suffixes)).search(path)
    return path[: found.start()] if found else None


@cache
def _suffix_pattern(suffixes: tuple[str, ...]) -> re.Pattern[str]:
    ends = []
    for suffix in suffixes:
        before, dot, extension = suffix.rpartition(".")
        known = _EXTENSIONS.get(extension.lower(), re.escape(extension))
        ends.append(re.escape(before + dot) + known)
    return re.compile(rf"(?:{'|'.join(ends)})\Z", re.IGNORECASE)


def image_stem(path: str) -> str | None:
    """A path without the extension of an image file; None if it has none."""
    stem = _IMAGE.sub("", path)
    return None if stem == path else stem


def list_files(folder: Path, left_out: dict[str, str] | None = None) -> dict[str, SourceFile]:
    """All regular files below a folder by relative path (with ``/``); links are followed.

    Hidden files (such as the ``._*`` of macOS archives), links to nothing, and what is no file
    (pipes, sockets, devices) are left out.

    Args:
        folder: where to look.
        left_out: takes the relative paths of all of them but hidden ones, each with the reason;
            names that are not UTF-8 too, which are refused without it.

    Raises:
        UserError: a folder cannot be read, or a name is not UTF-8, which a table cannot hold.
    """
    found: dict[str, SourceFile] = {}
    _list(folder, "", found, left_out, ())
    return dict(sorted(found.items()))


def _list(
    folder: Path,
    prefix: str,
    found: dict[str, SourceFile],
    left_out: dict[str, str] | None,
    above: tuple[str, ...],
) -> None:
    here = os.path.realpath(folder)
    if here in above:  # a link in a circle
        return
    with _readable(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    reasons = {} if left_out is None else left_out
    for entry in entries:
        if entry.name.startswith("."):
            continue
        status = _status(entry)
        if status is not None and stat.S_ISDIR(status.st_mode):
            name = f"{prefix}{entry.name}/"
            _list(Path(entry.path), name, found, left_out, (*above, here))
            continue
        shown = prefix + os.fsencode(entry.name).decode("utf-8", "replace")
        if shown != prefix + entry.name and left_out is None:
            raise UserError(f"the file name {shown} in {folder} is not UTF-8: rename it")
        if shown != prefix + entry.name:
            reasons[shown] = NOT_UTF8
        elif status is None:
            reasons[shown] = "a link to nothing"
        elif not stat.S_ISREG(status.st_mode):
            reasons[shown] = "not a regular file"
        else:
            found[shown] = SourceFile(entry.path, status.st_size, status.st_mtime_ns)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What an entry leads to; None if it leads to nothing."""
    with _readable(Path(entry.path)):
        try:
            return entry.stat()
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return None
            raise


@contextmanager
def _readable(place: Path) -> Iterator[None]:
    """What cannot be read must not be missing without a word."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {place}: {error.strerror or error}") from error


def read_split_file(
    path: Path, names: Collection[str], suffixes: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The names that a split file lists, and its entries that no name fits.

    A line is a name, a stem or a path, with or without suffix; a second column (the label's path,
    in some lists), blank lines and ``#`` comments are passed over. Folders in front may differ
    from those on disk as long as the rest is unambiguous.

    Args:
        path: the file, UTF-8.
        names: what there is, relative paths without suffix.
        suffixes: of the images, such as ``_leftImg8bit.png``.

    Raises:
        UserError: the file cannot be read or lists nothing.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the split file {path}: {reason}") from error
    stripped = [line.strip() for line in lines]
    entries = [line for line in stripped if line and not line.startswith("#")]
    if not entries:
        raise UserError(f"the split file {path} lists nothing")
    known = set(names)
    by_ending = _by_last_part(known)
    found, unknown = [], []
    for entry in entries:
        name = _resolve(entry, known, by_ending, suffixes)
        if name is None:
            unknown.append(entry)
        else:
            found.append(name)
    return list(dict.fromkeys(found)), unknown


def _by_last_part(names: Iterable[str]) -> dict[str, list[str]]:
    by_ending: dict[str, list[str]] = {}
    for name in names:
        by_ending.setdefault(PurePosixPath(name).name, []).append(name)
    return by_ending


def _resolve(
    entry: str, known: set[str], by_ending: dict[str, list[str]], suffixes: Sequence[str]
) -> str | None:
    for text in (entry, re.split(r"[\s,;]", entry)[0]):
        path = text.replace("\\", "/")
        for stem in (stem_of(path, suffixes), _IMAGE.sub("", path), path):
            if stem is None:
                continue
            if stem in known:
                return stem
            candidates = by_ending.get(PurePosixPath(stem).name, [])
            fitting = [name for name in candidates if _same_end(stem, name)]
            if len(fitting) == 1:
                return fitting[0]
    return None


def _same_end(first: str, second: str) -> bool:
    """Whether the shorter of two paths is the end of the longer one."""
    one, other = PurePosixPath(first).parts[::-1], PurePosixPath(second).parts[::-1]
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]
