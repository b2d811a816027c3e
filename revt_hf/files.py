"""Outputs that are either complete or not there."""

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from revt_hf.errors import UserError

# Of Linux: paths are absolute anyway, and RENAME_EXCHANGE.
_ANYWHERE, _EXCHANGE = -100, 2


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse an output that would destroy something.

    Raises:
        UserError: ``path`` exists and is not an empty folder, and ``overwrite`` is false; or it
            is the working directory or one above it, which overwriting would take away.
    """
    here = Path.cwd()
    if overwrite and path.resolve() in (here, *here.parents):
        raise UserError(f"{path} is or holds the working directory: choose another output")
    empty_folder = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty_folder and not overwrite:
        raise UserError(f"{path} exists already: choose another output or pass --overwrite")


def check_apart(output: Path, source: Path | None) -> None:
    """Refuse an output that would take the place of what it is made from.

    Raises:
        UserError: ``output`` is ``source`` or holds it.
    """
    place = source.resolve() if source else None
    if place is not None and output.resolve() in (place, *place.parents):
        raise UserError(f"{output} is or holds the data's own folder: choose another output")


@contextmanager
def atomic_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that becomes ``target`` when the block succeeds.

    Raises:
        UserError: ``target`` is not empty and ``overwrite`` is false, or cannot be written.
    """
    check_output(target, overwrite)
    with readable_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        scratch.chmod(0o777 & ~_umask())
        try:
            yield scratch
            for path in scratch.rglob("*"):
                # Some libraries write files that only their owner can read.
                path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
            replace_folder(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that replaces ``target`` when the block succeeds.

    Raises:
        UserError: ``target`` cannot be written.
    """
    with readable_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            yield scratch
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(target: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_file(target) as scratch:
        scratch.write_text(text, encoding="utf-8")


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def replace_folder(scratch: Path, target: Path) -> None:
    """Move ``scratch`` to ``target``; what was there goes only once that has worked.

    Where the system can swap two names at once, one of the two is there at any moment.
    """
    if not target.exists():
        scratch.rename(target)
        return
    if _swap(scratch, target):
        shutil.rmtree(scratch, ignore_errors=True)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / target.name)
    try:
        scratch.rename(target)
    except OSError:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _swap(first: Path, second: Path) -> bool:
    """Exchange two names (Linux ``renameat2``); False where that cannot be done."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    names = (os.fsencode(first.absolute()), os.fsencode(second.absolute()))
    return bool(rename(_ANYWHERE, names[0], _ANYWHERE, names[1], _EXCHANGE) == 0)


@contextmanager
def readable_os_errors(target: Path) -> Iterator[None]:
    """Turn errors of the file system into a UserError that names ``target``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
