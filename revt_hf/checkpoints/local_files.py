"""Files of tensors on this machine: their bytes, and whether they change meanwhile."""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from revt_hf.core.errors import UserError, readable


class LocalFiles:
    """Files that are open for reading at any place; ``stack`` closes them."""

    def __init__(self, paths: Sequence[Path], stack: ExitStack) -> None:
        self._paths, self._files = paths, list[int]()
        for path in paths:
            with readable(path):
                self._files.append(os.open(path, os.O_RDONLY))
            stack.callback(os.close, self._files[-1])

    def fill(self, file: int, offset: int, view: memoryview) -> None:
        """Fill ``view`` from byte ``offset`` of a file on."""
        path = self._paths[file]
        while view:
            with readable(path):
                got = os.preadv(self._files[file], [view], offset)
            if not got:
                raise UserError(f"{path} ended while it was read: is something writing to it?")
            view = view[got:]
            offset += got


class Stamps:
    """Detects files that change, or appear, while they are read."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._stamps: dict[Path, tuple[int, ...] | None] = {}
        self.add(*paths)

    def add(self, *paths: Path) -> None:
        """Record the state of files that are not recorded yet."""
        for path in paths:
            if path not in self._stamps:
                self._stamps[path] = _stamp(path)

    def check(self) -> None:
        """Refuse what was read if a file was written, replaced, removed or created since."""
        for path, stamp in self._stamps.items():
            if _stamp(path) != stamp:
                raise UserError(
                    f"{path} changed while it was read: is something writing to it? "
                    "Run the command again when that has ended"
                )


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        now = path.stat()
    except OSError:
        return None
    # ctime as well, since mtime can be set back.
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
