"""Files of a dataset: recursive listings, and lists of names in split files."""

import errno
import os
import re
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from revt_hf.core.errors import UserError, readable
from revt_hf.data.domains.base import SourceFile

NOT_UTF8 = "its name is not UTF-8: rename it"
# A dangling link, one in a circle, or one through a file.
_DANGLING = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
_IMAGE = re.compile(r"\.(png|jpe?g|webp|bmp|tiff?|gif|ppm|pgm)$", re.IGNORECASE)
_EXTENSIONS = {"jpg": "jpe?g", "jpeg": "jpe?g", "tif": "tiff?", "tiff": "tiff?"}


def stem_of(path: str, suffixes: Sequence[str]) -> str | None:
    """A path without its longest suffix among some; None if it has none of them.

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
    stripped = [line.strip() for line in lines]
    entries = [line for line in stripped if line and not line.startswith("#")]
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
        for stem in (stem_of(path, suffixes), _IMAGE.sub("", path), path):
            if stem is None:
                continue
            candidates = by_last_part.get(PurePosixPath(stem).name, [])
            if stem in candidates:
                return stem
            fitting = [name for name in candidates if _same_end(stem, name)]
            if len(fitting) == 1:
                return fitting[0]
    return None


def _same_end(first: str, second: str) -> bool:
    """Whether the shorter of two paths is the end of the longer one."""
    one, other = PurePosixPath(first).parts[::-1], PurePosixPath(second).parts[::-1]
    return all(part == same for part, same in zip(one, other, strict=False))
