"""Files of a data set: recursive listings, and lists of names in split files."""

import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from revt_hf.domains.base import SourceFile
from revt_hf.errors import UserError

# A link to nothing, in a circle, or through a file.
_NOTHING_THERE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
_PICTURE = re.compile(r"\.(png|jpe?g|webp|bmp|tiff?)$", re.IGNORECASE)


def list_files(folder: Path) -> dict[str, SourceFile]:
    """All files below a folder by relative path (with ``/``); links are followed.

    Hidden files (such as the ``._*`` of macOS archives) and links to nothing are left out.

    Raises:
        UserError: a name that is not UTF-8, which a table cannot hold.
    """
    found: dict[str, SourceFile] = {}
    _list(folder, "", found, ())
    return dict(sorted(found.items()))


def _list(folder: Path, prefix: str, found: dict[str, SourceFile], above: tuple[str, ...]) -> None:
    here = os.path.realpath(folder)
    if here in above:  # a link in a circle
        return
    with _readable(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        status = _status(entry)
        if status is None:
            continue
        if stat.S_ISDIR(status.st_mode):
            _list(Path(entry.path), f"{prefix}{entry.name}/", found, (*above, here))
            continue
        found[_text(prefix + entry.name, folder)] = SourceFile(
            entry.path, status.st_size, status.st_mtime_ns
        )


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


def _text(name: str, folder: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(name).decode("utf-8", "replace")
        raise UserError(f"the file name {shown} in {folder} is not UTF-8: rename it") from error
    return name


def read_split_file(
    path: Path, names: Collection[str], image_suffix: str
) -> tuple[list[str], list[str]]:
    """The names that a split file lists, and its entries that no name fits.

    A line is a name, a stem or a path, with or without suffix; a second column (the label's path,
    in some lists), blank lines and ``#`` comments are passed over. Folders in front may differ
    from those on disk as long as the rest is unambiguous.

    Args:
        path: the file, UTF-8.
        names: what there is, relative paths without suffix.
        image_suffix: of the pictures, such as ``_leftImg8bit.png``.

    Raises:
        UserError: the file cannot be read or lists nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the split file {path}") from error
    stripped = [line.strip() for line in lines]
    entries = [line for line in stripped if line and not line.startswith("#")]
    if not entries:
        raise UserError(f"the split file {path} lists nothing")
    known = set(names)
    by_ending = _by_last_part(known)
    found, unknown = [], []
    for entry in entries:
        name = _resolve(entry, known, by_ending, image_suffix)
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
    entry: str, known: set[str], by_ending: dict[str, list[str]], image_suffix: str
) -> str | None:
    for text in (entry, re.split(r"[\s,;]", entry)[0]):
        path = text.replace("\\", "/")
        for stem in (path.removesuffix(image_suffix), _PICTURE.sub("", path), path):
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
