"""One writer for each output."""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Not the package filelock: importing it takes a quarter of the time of a small merge.
_held: set[tuple[Path, int]] = set()
_TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock while the block runs; yields whether it could be had.

    A process that has ended, however it ended, holds no lock. The file is removed at the end. A
    thread may lock the same path again within its own block.

    Args:
        path: the lock file; made if need be.

    Raises:
        OSError: it cannot be made.
    """
    key = (path, threading.get_ident())
    if key in _held:
        yield True
        return
    descriptor = _locked_descriptor(path)
    if descriptor is None:
        yield False
        return
    _held.add(key)
    try:
        yield True
    finally:
        _held.discard(key)
        # While it is held: whoever waits for this inode sees that it has lost its name.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked_descriptor(path: Path) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(descriptor)
                return None
            # Some network file systems have no locks; that is no reason not to work.
            return descriptor
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
