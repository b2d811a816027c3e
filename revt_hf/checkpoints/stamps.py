"""Noticing that files change while they are read."""

from collections.abc import Iterable
from pathlib import Path

from revt_hf.core.errors import UserError

Stamp = tuple[int, ...]


class Stamps:
    """What files looked like before they were opened; a piece of them may be read much later.

    A file that is not there is one that has to stay away.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._stamps: dict[Path, Stamp | None] = {}
        self.add(*paths)

    def add(self, *paths: Path) -> None:
        """Note files, unless they are noted already."""
        for path in paths:
            if path not in self._stamps:
                self._stamps[path] = _stamp(path)

    def check(self) -> None:
        """Refuse what was read if a file is not what it was.

        Raises:
            UserError: a file was written, replaced, removed or made since.
        """
        for path, stamp in self._stamps.items():
            if _stamp(path) != stamp:
                raise UserError(
                    f"{path} changed while it was read: is something writing to it? "
                    "Run the command again when that has ended"
                )


def _stamp(path: Path) -> Stamp | None:
    try:
        now = path.stat()
    except OSError:
        return None
    # The time of the last change (ctime) is there because mtime can be set back.
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
