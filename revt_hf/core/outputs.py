"""The one door for outputs: each is either complete or absent, and has one writer at a time."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.markers import (
    MARKER_FILE,
    SCRATCH_PREFIX,
    folder_state,
    is_listed,
    is_marked,
    mark_output,
)
from revt_hf.core.output_rules import (
    InputPath,
    check_apart,
    check_beside,
    check_output,
    check_output_file,
    check_suffix,
    real_path,
)
from revt_hf.core.replacing import (
    beside,
    clear_files,
    lock_file,
    open_up,
    recover,
    remove_replaced,
    replace_folder,
    scratch_file,
)

__all__ = [
    "MARKER_FILE",
    "SCRATCH_PREFIX",
    "atomic_file",
    "atomic_folder",
    "beside",
    "check_apart",
    "check_beside",
    "check_output",
    "check_output_file",
    "check_suffix",
    "clear_files",
    "file_sha256",
    "folder_in_place",
    "folder_state",
    "growing_folder",
    "is_listed",
    "is_marked",
    "locked",
    "mark_output",
    "open_up",
    "read_json_object",
    "readable_os_errors",
    "real_path",
    "replace_folder",
    "scratch_file",
    "write_json",
    "write_text",
]

_LARGEST_JSON = 16 * 2**20


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Be the only writer of an output folder while the block runs.

    Leftovers of killed processes beside it are removed first.

    Raises:
        UserError: another process is writing it, or nothing can be written there.
    """
    target = real_path(output)
    with ExitStack() as stack:
        with readable_os_errors(output):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not stack.enter_context(lock_file(beside(target, "lock"))):
                raise UserError(
                    f"{output} is being written by another process: choose another output, or "
                    "wait for it"
                )
            recover(target)
        yield


@contextmanager
def atomic_folder(
    target: Path, overwrite: bool = False, inputs: Iterable[InputPath] = ()
) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that becomes ``target`` when the block succeeds.

    Args:
        target: the output.
        overwrite: as in :func:`check_output`.
        inputs: as in :func:`check_output`.

    Raises:
        UserError: see :func:`check_output`; or it is being written or cannot be written.
    """
    check_output(target, overwrite, inputs)
    place = real_path(target)
    with readable_os_errors(target), locked(target):
        scratch = beside(place, "new")
        scratch.mkdir()
        try:
            yield scratch
            open_up(scratch)
            mark_output(scratch)
            # The folder may have changed meanwhile.
            check_output(target, overwrite, inputs)
            replace_folder(scratch, place)
        except UserError as error:
            # Errors from inside the block name the hidden folder.
            raise UserError(str(error).replace(str(scratch), str(target))) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def growing_folder(
    target: Path,
    overwrite: bool,
    patterns: Collection[str],
    inputs: Collection[InputPath] = (),
    inside: bool = False,
) -> Iterator[None]:
    """Write into a folder file by file; files that are not written again stay.

    Args:
        target: the output.
        overwrite: continue where files exist already; those that match must be ours.
        patterns: files that may be written, as in :func:`mark_output`.
        inputs: as in :func:`check_output`.
        inside: allow the output to lie in an input.

    Raises:
        UserError: see :func:`check_output`; or it is being written or cannot be written.
    """
    place = real_path(target)
    with locked(target):
        check_output(target, overwrite, inputs, patterns, inside)
        with readable_os_errors(target):
            place.mkdir(exist_ok=True)
            mark_output(place, patterns, patterns)
        yield
        with readable_os_errors(target):
            mark_output(place, files=patterns)


@contextmanager
def folder_in_place(target: Path, overwrite: bool, patterns: Iterable[str]) -> Iterator[None]:
    """Write a folder at its final path; the old one comes back if the block fails.

    For work that records its own path. After a kill the next call brings the old folder back.

    Args:
        target: the output.
        overwrite: as in :func:`check_output`.
        patterns: files that may be written, as in :func:`mark_output`.

    Raises:
        UserError: see :func:`check_output`; or it is being written or cannot be written.
    """
    check_output(target, overwrite)
    place = real_path(target)
    kept = beside(place, "kept")
    with locked(target):
        check_output(target, overwrite)
        try:
            with readable_os_errors(target):
                if place.exists():
                    place.rename(kept)
                place.mkdir()
                mark_output(place, patterns)
            yield
            with readable_os_errors(target):
                mark_output(place)
        except BaseException:
            if kept.exists():
                shutil.rmtree(place, ignore_errors=True)
                kept.rename(place)
            raise
        remove_replaced(place, kept)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that replaces ``target`` when the block succeeds.

    Raises:
        UserError: ``target`` cannot be written, or is not a regular file.
    """
    with readable_os_errors(target):
        place = real_path(target)
        if os.path.lexists(place) and not place.is_file():
            raise UserError(f"cannot write {target}: it is not a regular file")
        place.parent.mkdir(parents=True, exist_ok=True)
        clear_files(place.parent)
        scratch = scratch_file(place)
        try:
            yield scratch
            scratch.replace(place)
        finally:
            scratch.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(target: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_file(target) as scratch:
        # File names may contain bytes that are not UTF-8; escaped, they are still JSON.
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: it is missing, too large, or not a JSON object.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path} is missing, or is not a file")
        if path.stat().st_size > _LARGEST_JSON:
            raise UserError(f"{path} is larger than {_LARGEST_JSON} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    # The decoder limits its own depth, and refuses numbers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON, or it is damaged") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object")
    return values


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
