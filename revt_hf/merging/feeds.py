"""Reading a merge's sources front to back, hashing on the way."""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.merging.sources import Source

_GAP_BYTES = 512 * 1024


class Feed:
    """A source's files: reads ranges, and hashes every byte once, in order, if that works out."""

    def __init__(
        self, source: Source, hashing: bool, lane: ThreadPoolExecutor, stack: ExitStack
    ) -> None:
        self.source = source
        self._lane = lane
        self._files = [opened(path, stack) for path in source.files]
        places = list(zip(source.file.tolist(), source.offset.tolist(), strict=True))
        # A temporary file is not what the user gave: the original is hashed by itself.
        self._on_the_way = hashing and source.files == source.originals and places == sorted(places)
        self._hashing = hashing
        self._hashes = [hashlib.sha256() for _ in source.files]
        self._done = [0] * len(source.files)

    def read(self, item: int, start: int, view: memoryview) -> "Future[None] | None":
        """Fill ``view`` with the bytes from ``start`` on of an item (and its neighbours).

        Returns:
            The hashing of these bytes, which goes on beside; until it ends they must stay.
        """
        number = int(self.source.file[item])
        offset = int(self.source.offset[item]) + start
        read_at(self._files[number], self.source.files[number], offset, view)
        return self._lane.submit(self._hash, number, offset, view) if self._on_the_way else None

    def _hash(self, number: int, offset: int, view: memoryview) -> None:
        self._pass_over(number, offset)
        self._hashes[number].update(view)
        self._done[number] = offset + len(view)

    def digests(self) -> dict[str, str] | None:
        """sha256 of each of the source's files by file name, None if they are not wanted."""
        if not self._hashing:
            return None
        if self._on_the_way:
            for number, path in enumerate(self.source.files):
                self._pass_over(number, path.stat().st_size)
            hashes = [digest.hexdigest() for digest in self._hashes]
        else:
            hashes = [file_sha256(path) for path in self.source.originals]
        names = [path.name for path in self.source.originals]
        return dict(zip(names, hashes, strict=True))

    def _pass_over(self, number: int, offset: int) -> None:
        """Hash the bytes that nobody asked for, up to ``offset``."""
        buffer = memoryview(bytearray(min(_GAP_BYTES, max(0, offset - self._done[number]))))
        while self._done[number] < offset:
            view = buffer[: offset - self._done[number]]
            path = self.source.files[number]
            read_at(self._files[number], path, self._done[number], view)
            self._hashes[number].update(view)
            self._done[number] += len(view)


def opened(path: Path, stack: ExitStack) -> int:
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    stack.callback(os.close, number)
    return number


def read_at(file: int, path: Path, offset: int, view: memoryview) -> None:
    while view:
        try:
            got = os.preadv(file, [view], offset)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        if not got:
            raise UserError(f"{path} ended while it was read: is something writing to it?")
        view = view[got:]
        offset += got
