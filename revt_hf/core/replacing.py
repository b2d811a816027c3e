"""Swapping a finished output for an old one, and clearing up after a process that was killed."""

import ctypes
import hashlib
import os
import shutil
import stat
import threading
from pathlib import Path

from revt_hf.core.markers import SCRATCH_PREFIX, is_marked

# Of Linux: paths are absolute anyway, and RENAME_EXCHANGE.
_ANYWHERE, _EXCHANGE = -100, 2
_cleaned: set[Path] = set()
_cleaning = threading.Lock()


def beside(target: Path, what: str) -> Path:
    """The hidden path beside an output for its lock, its unfinished and its replaced state."""
    return target.with_name(f".{target.name}{SCRATCH_PREFIX}{what}")


def scratch_file(target: Path) -> Path:
    """Where a file is written before it takes its name; that of a dead process can be told."""
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    return target.with_name(f"{SCRATCH_PREFIX}{os.getpid()}-{name}{target.suffix}")


def real_path(path: str | Path) -> Path:
    """The absolute path that all links lead to; of links in a circle, one of them."""
    return Path(os.path.realpath(path))


def open_up(folder: Path) -> None:
    """Give what lies in a folder the usual permissions."""
    # Some libraries write files that only their owner can read.
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def replace_folder(scratch: Path, target: Path) -> None:
    """Move ``scratch`` to ``target``; what was there goes only once that has worked.

    Where the system can swap two names at once, one of the two is there at any moment.
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
    """Delete what has been replaced; by a name that no half of it can be taken for a result."""
    if not replaced.exists():
        return
    old = beside(target, "old")
    if replaced != old:
        shutil.rmtree(old, ignore_errors=True)
        replaced.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Bring an output back to the state before or after a replacement that was killed."""
    kept, old = beside(target, "kept"), beside(target, "old")
    if kept.exists() and (not target.exists() or is_marked(target)):
        shutil.rmtree(target, ignore_errors=True)
        kept.rename(target)
    if old.exists() and not target.exists():
        old.rename(target)
    for left in (old, beside(target, "new")):
        shutil.rmtree(left, ignore_errors=True)


def clear_files(folder: Path) -> None:
    """Remove, once, the unfinished files that processes left which are gone."""
    with _cleaning:
        if folder in _cleaned:
            return
        for path in folder.glob(f"{SCRATCH_PREFIX}*-*"):
            number = path.name.removeprefix(SCRATCH_PREFIX).split("-")[0]
            if number.isdigit() and stat.S_ISREG(path.lstat().st_mode) and _is_gone(int(number)):
                path.unlink(missing_ok=True)
        _cleaned.add(folder)


def _is_gone(process: int) -> bool:
    """Our own number counts as gone: we have not begun yet in that folder."""
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
    """Exchange two names (Linux ``renameat2``); False where that cannot be done."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    names = (os.fsencode(first.absolute()), os.fsencode(second.absolute()))
    return bool(rename(_ANYWHERE, names[0], _ANYWHERE, names[1], _EXCHANGE) == 0)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
