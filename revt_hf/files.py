"""Outputs: which ones are refused, and that they are either complete or not there."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from revt_hf.errors import UserError
from revt_hf.locks import lock_file
from revt_hf.markers import SCRATCH_PREFIX, foreign_file, is_marked, mark_output
from revt_hf.replacing import (
    beside,
    clear_files,
    open_up,
    real_path,
    recover,
    remove_replaced,
    replace_folder,
)

Place = str | Path | None

_ELSEWHERE = "choose another output"
# What torch and safetensors raise in place of an OSError when a file cannot be written.
_WRITE_ERRORS = (
    "PytorchStreamWriter failed",
    "inline_container",
    "unexpected pos",
    "I/O error",
)


def check_output(path: Path, overwrite: bool, inputs: Iterable[Place] = ()) -> None:
    """Refuse an output folder that would destroy something.

    Args:
        path: the folder; a link stands for what it leads to.
        overwrite: whether a folder that we wrote may be replaced.
        inputs: everything the command reads; Hub ids and None are passed over.

    Raises:
        UserError: ``path`` is, holds or lies in an input; is or holds the working directory or
            the home; is no folder; or is not empty and ``overwrite`` is false, or it holds
            anything that we did not write.
    """
    check_apart(path, inputs)
    with readable_os_errors(path):
        target = real_path(path)
        if not os.path.lexists(target):
            _check_writable(path, target)
            return
        if not target.is_dir():
            raise UserError(f"{path} is not a folder: {_ELSEWHERE}")
        if not any(target.iterdir()):
            return
    if not overwrite:
        raise UserError(f"{path} exists already: {_ELSEWHERE} or pass --overwrite")
    if not is_marked(target):
        raise UserError(
            f"{path} was not written by revt, so it is not overwritten: {_ELSEWHERE}, or delete it "
            "yourself"
        )
    foreign = foreign_file(target)
    if foreign is not None:
        raise UserError(
            f"{path} holds {foreign}, which revt did not write: move it away, or {_ELSEWHERE}"
        )


def check_apart(path: Path, inputs: Iterable[Place] = (), inside: bool = False) -> None:
    """Refuse an output folder that is, holds or lies in an input, or takes away where we are.

    Args:
        path: the output.
        inputs: as in :func:`check_output`.
        inside: it may lie in an input.

    Raises:
        UserError: see :func:`check_output`.
    """
    with readable_os_errors(path):
        target = real_path(path)
        for name, place in _protected():
            if target in (place, *place.parents):
                raise UserError(f"{path} is or holds the {name}: {_ELSEWHERE}")
        for given in inputs:
            for place in _places(given):
                if target in (place, *place.parents):
                    raise UserError(f"{path} is or holds the input {given}: {_ELSEWHERE}")
                if place in target.parents and not inside:
                    raise UserError(f"{path} lies in the input {given}: {_ELSEWHERE}")


def check_output_file(
    path: Path | None, overwrite: bool = True, inputs: Iterable[Place] = ()
) -> None:
    """Refuse, before the work, an output file that cannot be written or would destroy an input.

    Args:
        path: such as ``--json``'s; None is passed over.
        overwrite: whether an existing file may be replaced.
        inputs: everything the command reads.

    Raises:
        UserError: ``path`` is a folder or no regular file, lies where nothing can be written,
            exists and is or lies in an input, or exists and ``overwrite`` is false.
    """
    if path is None:
        return
    with readable_os_errors(path):
        target = real_path(path)
        if target.is_dir():
            raise UserError(f"{path} is a folder: name a file")
        if not os.path.lexists(target):
            _check_writable(path, target)
            return
        if not target.is_file():
            raise UserError(f"{path} is not a regular file: name another one")
        for given in inputs:
            for place in _places(given):
                if place in (target, *target.parents):
                    raise UserError(f"{path} is or belongs to the input {given}: {_ELSEWHERE}")
        if not os.access(target.parent, os.W_OK):
            raise UserError(f"cannot write {path}: {target.parent} may not be written to")
    if not overwrite:
        raise UserError(f"{path} exists already: {_ELSEWHERE} or pass --overwrite")


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Be the only one that writes an output folder while the block runs.

    What a killed process left beside it is cleared away first.

    Raises:
        UserError: another process is writing it, or nothing can be written there.
    """
    target = real_path(output)
    with readable_os_errors(output):
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(beside(target, "lock")) as ours:
            if not ours:
                raise UserError(f"{output} is being written by another process: {_ELSEWHERE}")
            recover(target)
            yield


@contextmanager
def atomic_folder(
    target: Path, overwrite: bool = False, inputs: Iterable[Place] = (), mark: bool = True
) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that becomes ``target`` when the block succeeds.

    Args:
        target: the output.
        overwrite: as in :func:`check_output`.
        inputs: as in :func:`check_output`.
        mark: put a marker into it, without which it can never be overwritten.

    Raises:
        UserError: see :func:`check_output`; or it is being written or cannot be written.
    """
    check_output(target, overwrite, inputs)
    place = real_path(target)
    with locked(target):
        scratch = beside(place, "new")
        scratch.mkdir()
        try:
            yield scratch
            open_up(scratch)
            if mark:
                mark_output(scratch)
            # Things may have come there meanwhile.
            check_output(target, overwrite, inputs)
            replace_folder(scratch, place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def folder_in_place(target: Path, overwrite: bool, patterns: Iterable[str]) -> Iterator[None]:
    """Write a folder where it is to be; what was there comes back if the block fails.

    For work that records its own path. After a kill the next call brings it back.

    Args:
        target: the output.
        overwrite: as in :func:`check_output`.
        patterns: what is written, as in :func:`revt_hf.markers.mark_output`.

    Raises:
        UserError: see :func:`check_output`; or it is being written or cannot be written.
    """
    check_output(target, overwrite)
    place = real_path(target)
    with locked(target):
        check_output(target, overwrite)
        kept = beside(place, "kept")
        if place.exists():
            place.rename(kept)
        try:
            place.mkdir()
            mark_output(place, patterns)
            yield
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
        UserError: ``target`` cannot be written, or is something else than a file.
    """
    with readable_os_errors(target):
        place = real_path(target)
        if os.path.lexists(place) and not place.is_file():
            raise UserError(f"cannot write {target}: it is not a regular file")
        place.parent.mkdir(parents=True, exist_ok=True)
        clear_files(place.parent)
        name = hashlib.sha256(os.fsencode(place.name)).hexdigest()[:8]
        scratch = place.with_name(f"{SCRATCH_PREFIX}{os.getpid()}-{name}")
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


@contextmanager
def readable_os_errors(target: Path) -> Iterator[None]:
    """Turn what the file system, torch and safetensors say into a UserError naming ``target``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:
        # Not by type: torch and safetensors are not imported here.
        if any(words in str(error) for words in _WRITE_ERRORS):
            reason = _disk_state(target) or str(error).splitlines()[0]
            raise UserError(f"cannot write {target}: {reason}") from error
        raise


def _disk_state(target: Path) -> str | None:
    """Torch does not say why it could not write."""
    try:
        above = next(parent for parent in real_path(target).parents if parent.exists())
        return None if shutil.disk_usage(above).free > 1 << 20 else "no space left on device"
    except OSError:
        return None


def _protected() -> Iterator[tuple[str, Path]]:
    for name, find in (("working directory", Path.cwd), ("home directory", Path.home)):
        try:
            yield name, real_path(find())
        except (OSError, RuntimeError):
            continue


def _places(given: Place) -> Iterator[Path]:
    """Where an input really lies, with the files that links directly in a folder lead to."""
    if given is None or not os.path.lexists(given):
        return
    place = real_path(given)
    yield place
    if place.is_dir():
        yield from (real_path(entry.path) for entry in os.scandir(place) if entry.is_symlink())


def _check_writable(path: Path, target: Path) -> None:
    above = next(parent for parent in target.parents if os.path.lexists(parent))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"cannot write {path}: {above} is not a folder that may be written to")
