"""Output folders on disk: markers of what is ours, locks, and replacement that survives a kill."""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from revt_hf.core.errors import UserError, readable_os_errors

# Lists our files in an output folder, so that nothing else is overwritten.
MARKER_FILE = ".revt_hf.json"
# Names of unfinished files and folders, inside an output and beside it.
SCRATCH_PREFIX = ".revt-"
_FORMAT = "revt_hf.output/1"
_CONFIG_FILE = "config.json"
# The files of a model folder, whoever wrote it.
_MODEL_FILES = (
    f"{MARKER_FILE} {_CONFIG_FILE} preprocessor_config.json recipe.yaml merge.json run.json "
    "changes.json metrics.jsonl README.md *.safetensors *.safetensors.index.json *.bin "
    "*.bin.index.json"
).split()
# Of Linux: the folder of relative paths, which are not used, and RENAME_EXCHANGE.
_AT_CWD, _EXCHANGE = -100, 2
_TAKEN = (errno.EAGAIN, errno.EACCES)
_held: set[tuple[Path, int]] = set()
_cleaned: set[Path] = set()
_cleaning = threading.Lock()


def mark_output(
    folder: Path, patterns: Iterable[str] = (), files: Collection[str] = ("*",)
) -> None:
    """Write a folder's marker; ``files`` (``fnmatch``) there are ours, ``patterns`` will be."""
    ours = [path for path in _files(folder) if _matches(path, files)]
    value = {"format": _FORMAT, "files": ours, "patterns": list(patterns)}
    scratch = folder / f"{SCRATCH_PREFIX}marker"
    try:
        scratch.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        scratch.replace(folder / MARKER_FILE)
    finally:
        scratch.unlink(missing_ok=True)


def is_marked(folder: Path) -> bool:
    """Whether a folder has a readable marker."""
    return _read_marker(folder) is not None


def is_listed(folder: Path, path: str) -> bool:
    """Whether the marker of a folder lists a relative path as ours."""
    files, patterns = _read_marker(folder) or (set(), [])
    return path in files or _matches(path, patterns)


def folder_state(folder: Path) -> str | None:
    """A digest of names, sizes and times of a folder's files; None for an empty folder."""
    stats = [(path, (folder / path).lstat()) for path in _files(folder)]
    found = [[path, now.st_size, now.st_mtime_ns] for path, now in stats]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest() if found else None


def foreign_file(folder: Path, among: Collection[str] = ("*",)) -> str | None:
    """The first file matching ``among`` that we did not write, relative; None if all are ours."""
    files, patterns = _read_marker(folder) or (set(), [])
    found = (path for path in _files(folder) if _matches(path, among))
    return next(
        (path for path in found if path not in files and not _matches(path, patterns)), None
    )


def owner(file: Path) -> Path | None:
    """The model folder or marked output that a file (an absolute path) belongs to."""
    for folder in file.parents:
        if is_listed(folder, file.relative_to(folder).as_posix()):
            return folder
    above = file.parent
    model = is_marked(above) or (above / _CONFIG_FILE).is_file()
    return above if model and _matches(file.name, _MODEL_FILES) else None


def _read_marker(folder: Path) -> tuple[set[str], list[str]] | None:
    try:
        value = json.loads((folder / MARKER_FILE).read_bytes())
        if value["format"] != _FORMAT:
            return None
        return {str(path) for path in value["files"]}, [str(path) for path in value["patterns"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _files(folder: Path) -> list[str]:
    """Sorted relative paths of files and links (not followed), without markers and scratch."""
    found = []
    for above, folders, files in os.walk(folder):
        links = [name for name in folders if Path(above, name).is_symlink()]
        found += [Path(above, name).relative_to(folder) for name in (*files, *links)]
    return sorted(
        path.as_posix()
        for path in found
        if path.name != MARKER_FILE
        and not any(part.startswith(SCRATCH_PREFIX) for part in path.parts)
    )


def _matches(path: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def real_path(path: str | Path) -> Path:
    """The absolute path with all links resolved; of links in a circle, one of them."""
    return Path(os.path.realpath(path))


def check_once(models: Iterable[str | Path], advice: str) -> None:
    """Refuse a model that is listed twice, by whatever path: it would count twice."""
    seen: dict[Path, str | Path] = {}
    for model in models:
        before = seen.get(real_path(model))
        if before is not None:
            also = "" if str(before) == str(model) else f", the other time as {before}"
            raise UserError(f"the model {model} is listed twice{also}: {advice}")
        seen[real_path(model)] = model


def beside(target: Path, what: str) -> Path:
    """The hidden path beside an output for its lock, its unfinished and its replaced state."""
    return target.with_name(f".{target.name}{SCRATCH_PREFIX}{what}")


def scratch_file(target: Path) -> Path:
    """The temporary path of a file that is being written; it names the process."""
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    return target.with_name(f"{SCRATCH_PREFIX}{os.getpid()}-{name}{target.suffix}")


# Not the package filelock: importing it takes a quarter of the time of a small merge.
@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Be the only writer of an output folder, free of a killed process's leftovers.

    A dead process holds no lock. A thread may lock the same folder again within its own block.
    """
    target = real_path(output)
    path = beside(target, "lock")
    key = (path, threading.get_ident())
    again, descriptor = key in _held, None
    with readable_os_errors(output):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not again and (descriptor := _locked_descriptor(path)) is None:
            raise UserError(
                f"{output} is being written by another process: choose another output, or wait "
                "for it"
            )
    _held.add(key)
    try:
        with readable_os_errors(output):
            recover(target)
        yield
    finally:
        if descriptor is not None:
            _held.discard(key)
            # Removed before the lock is released: who waits for this inode sees it unlinked.
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
    """Move ``scratch`` to ``target``; the old folder is deleted only once that has worked."""
    if not target.exists():
        scratch.rename(target)
    # Where the system can swap two names at once, ``target`` exists at every moment.
    elif _swap(scratch, target):
        remove_replaced(target, scratch)
    else:
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
    old = beside(target, "old")
    if replaced.exists() and replaced != old:
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
    except (OSError, OverflowError) as error:
        return isinstance(error, ProcessLookupError)
    return False


def _swap(first: Path, second: Path) -> bool:
    """Exchange two names (Linux ``renameat2``); False where that is not possible."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    names = (os.fsencode(first.absolute()), os.fsencode(second.absolute()))
    return bool(rename(_AT_CWD, names[0], _AT_CWD, names[1], _EXCHANGE) == 0)
