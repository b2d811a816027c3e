"""One writer per output: locks, replacing old outputs, and cleaning up after killed processes."""

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from revt_hf.core.markers import SCRATCH_PREFIX, is_marked

# Of Linux: the folder of relative paths, which are not used, and RENAME_EXCHANGE.
_AT_CWD, _EXCHANGE = -100, 2
_TAKEN = (errno.EAGAIN, errno.EACCES)
_held: set[tuple[Path, int]] = set()
_cleaned: set[Path] = set()
_cleaning = threading.Lock()


def beside(target: Path, what: str) -> Path:
    """The hidden path beside an output for its lock, its unfinished and its replaced state."""
    return target.with_name(f".{target.name}{SCRATCH_PREFIX}{what}")


def scratch_file(target: Path) -> Path:
    """The temporary path of a file that is being written; it names the process."""
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    return target.with_name(f"{SCRATCH_PREFIX}{os.getpid()}-{name}{target.suffix}")


# Not the package filelock: importing it takes a quarter of the time of a small merge.
@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock while the block runs; yields whether it was acquired.

    A process that has ended, however it ended, holds no lock. The file is removed at the end. A
    thread may lock the same path again within its own block.

    Args:
        path: the lock file; created if missing.

    Raises:
        OSError: it cannot be created.
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
        # Removed before the lock is released: whoever waits for this inode sees it unlinked.
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
            # Some network file systems have no locks; writing works without them.
            return descriptor
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def open_up(folder: Path) -> None:
    """Give files the usual permissions; some libraries restrict them to the owner."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def replace_folder(scratch: Path, target: Path) -> None:
    """Move ``scratch`` to ``target``; the old folder is deleted only once that has worked.

    Where the system can swap two names at once, ``target`` exists at every moment.
    """
    if not target.exists():
        scratch.rename(target)
        return
    if _swap(scratch, target):
        remove_replaced(target, scratch)
        return
    old = beside(target, "old")
    target.rename(old)
    try:
        scratch.rename(target)
    except OSError:
        old.rename(target)
        raise
    remove_replaced(target, old)


def remove_replaced(target: Path, replaced: Path) -> None:
    """Delete a replaced folder, under a name by which no half of it can be taken for a result."""
    if not replaced.exists():
        return
    old = beside(target, "old")
    if replaced != old:
        shutil.rmtree(old, ignore_errors=True)
        replaced.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Restore an output to its state before or after a replacement that was killed."""
    kept, old = beside(target, "kept"), beside(target, "old")
    if kept.exists() and (not target.exists() or is_marked(target)):
        shutil.rmtree(target, ignore_errors=True)
        kept.rename(target)
    if old.exists() and not target.exists():
        old.rename(target)
    for left in (old, beside(target, "new")):
        shutil.rmtree(left, ignore_errors=True)


def clear_files(folder: Path) -> None:
    """Remove unfinished files of dead processes, once per folder."""
    with _cleaning:
        if folder in _cleaned:
            return
        for path in folder.glob(f"{SCRATCH_PREFIX}*-*"):
            number = path.name.removeprefix(SCRATCH_PREFIX).split("-")[0]
            if number.isdigit() and stat.S_ISREG(path.lstat().st_mode) and _is_gone(int(number)):
                path.unlink(missing_ok=True)
        _cleaned.add(folder)


def _is_gone(process: int) -> bool:
    # Our own number counts as gone: we have not written to that folder yet.
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _swap(first: Path, second: Path) -> bool:
    """Exchange two names (Linux ``renameat2``); False where that is not possible."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    names = (os.fsencode(first.absolute()), os.fsencode(second.absolute()))
    return bool(rename(_AT_CWD, names[0], _AT_CWD, names[1], _EXCHANGE) == 0)
