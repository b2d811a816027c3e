"""The one door for outputs: which may be written, and how they are either complete or absent."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from revt_hf.core.errors import UserError, readable, readable_os_errors
from revt_hf.core.output_folders import (
    beside,
    clear_files,
    foreign_file,
    is_marked,
    locked,
    mark_output,
    open_up,
    owner,
    real_path,
    remove_replaced,
    replace_folder,
    scratch_file,
)

InputPath = str | Path | None
# An adapter of PEFT, which names its base.
ADAPTER_CONFIG_FILE = "adapter_config.json"
_ELSEWHERE = "choose another output"
_JSON_START = 64
_LARGEST_JSON = 16 * 2**20


def check_output(
    path: Path,
    overwrite: bool,
    inputs: Iterable[InputPath] = (),
    patterns: Collection[str] | None = None,
    inside: bool = False,
) -> None:
    """Refuse an output folder that overlaps an input, or holds what may not be overwritten.

    ``patterns`` (``fnmatch``) are files that may be added, all others stay; None replaces the
    folder. ``inside`` allows it to lie in an input. Hub ids and None are ignored as inputs.
    """
    check_apart(path, inputs, inside)
    with readable_os_errors(path):
        target = real_path(path)
        if os.path.lexists(target) and not target.is_dir():
            raise UserError(f"{path} is not a folder: {_ELSEWHERE}")
        _check_writable(path, target)
        if not (target.is_dir() and any(target.iterdir())):
            return
    if not overwrite:
        raise UserError(f"{path} exists already: {_ELSEWHERE} or pass --overwrite")
    if patterns is None and not is_marked(target):
        raise UserError(
            f"{path} was not written by revt, so it is not overwritten: {_ELSEWHERE}, or delete it "
            "yourself"
        )
    foreign = foreign_file(target, ("*",) if patterns is None else patterns)
    if foreign is not None:
        raise UserError(
            f"{path} holds {foreign}, which revt did not write: move it away, or {_ELSEWHERE}"
        )


def check_apart(path: Path, inputs: Iterable[InputPath] = (), inside: bool = False) -> None:
    """Refuse an output that overlaps an input, the working directory or the home directory."""
    with readable_os_errors(path):
        target = real_path(path)
        for name, find in (("working directory", Path.cwd), ("home directory", Path.home)):
            with suppress(OSError, RuntimeError):
                protected = real_path(find())
                if target in (protected, *protected.parents):
                    raise UserError(f"{path} is or holds the {name}: {_ELSEWHERE}")
        for given, place in _input_paths(inputs):
            if target in (place, *place.parents):
                raise UserError(f"{path} is or holds the input {given}: {_ELSEWHERE}")
            if place in target.parents and not inside:
                raise UserError(f"{path} lies in the input {given}: {_ELSEWHERE}")


def check_beside(path: Path, others: Iterable[Path | None]) -> None:
    """Refuse an output folder that overlaps another output, which need not exist yet."""
    with readable_os_errors(path):
        target = real_path(path)
        for other in others:
            place = None if other is None else real_path(other)
            if place and (target in (place, *place.parents) or place in target.parents):
                raise UserError(f"{path} and {other} are both written to: {_ELSEWHERE}")


def check_suffix(path: Path, *suffixes: str) -> None:
    """Refuse an output file without one of these suffixes (lower case, the usual one first)."""
    if path.suffix.lower() not in suffixes:
        kind = suffixes[0][1:]
        raise UserError(f"{path}: {kind.upper()} is written, so its name has to end in .{kind}")


def check_output_file(
    path: Path | None,
    overwrite: bool | None = None,
    inputs: Iterable[InputPath] = (),
    outputs: Iterable[InputPath] = (),
) -> None:
    """Refuse, before the work starts, an output file that cannot be written safely.

    ``overwrite=None`` is for ``--json``: results replace older JSON files and nothing else. Folders
    that results may lie in are no ``inputs``; ``outputs`` are everything else the command writes.
    """
    if path is None:
        return
    if str(path) == "-":
        raise UserError("- is not a file: name one, standard output shows the results as text")
    with readable_os_errors(path):
        target = real_path(path)
        if target.is_dir():
            raise UserError(f"{path} is a folder: name a file")
        exists = os.path.lexists(target)
        if exists and not target.is_file():
            raise UserError(f"{path} is not a regular file: name another one")
        places = [("input", given, place) for given, place in _input_paths(inputs)]
        # An output need not exist yet; an input that does not exist is a Hub id.
        places += [("output", given, real_path(given)) for given in outputs if given is not None]
        for kind, given, place in places:
            if place == target:
                raise UserError(f"{path} is the {kind} {given}: {_ELSEWHERE}")
            if place in target.parents:
                raise UserError(f"{path} lies in the {kind} {given}: {_ELSEWHERE}")
        if not exists:
            _check_writable(path, target)
            return
        folder = owner(target) or owner(real_path(path.parent) / path.name)
        if folder is not None:
            raise UserError(f"{path} is a file of {folder}: {_ELSEWHERE}")
        if not os.access(target.parent, os.W_OK):
            raise UserError(f"cannot write {path}: {target.parent} may not be written to")
        if overwrite is None:
            with target.open("rb") as file:
                if file.read(_JSON_START).lstrip()[:1] not in (b"{", b"[", b""):
                    raise UserError(f"{path} exists already and is not JSON: {_ELSEWHERE}")
        elif not overwrite:
            raise UserError(f"{path} exists already: {_ELSEWHERE} or pass --overwrite")


def _check_writable(path: Path, target: Path) -> None:
    above = next(parent for parent in target.parents if os.path.lexists(parent))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"cannot write {path}: {above} is not a folder that may be written to")


def _input_paths(inputs: Iterable[InputPath]) -> Iterator[tuple[InputPath, Path]]:
    """Existing inputs with their real paths, and those of links directly inside them."""
    for given in inputs:
        if given is not None and os.path.lexists(given):
            place = real_path(given)
            entries = place.iterdir() if place.is_dir() else ()
            yield given, place
            yield from [(given, real_path(entry)) for entry in entries if entry.is_symlink()]
            base = named_base(place)
            if base is not None:
                yield given, real_path(base)


def named_base(folder: Path) -> Path | None:
    """The folder that a PEFT adapter's configuration names as its base; None for a Hub ID.

    A relative one lies in the working directory, where PEFT looks, or else in the adapter's folder.
    """
    path = folder / ADAPTER_CONFIG_FILE
    base = read_json_object(path).get("base_model_name_or_path") if path.is_file() else None
    places = (Path(base), real_path(folder / base)) if isinstance(base, str) and base else ()
    return next((place for place in places if place.is_dir()), None)


@contextmanager
def atomic_folder(
    target: Path, overwrite: bool = False, inputs: Iterable[InputPath] = ()
) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that becomes it when the block succeeds."""
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
    """Write into a folder file by file; files that are not written again stay."""
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
    """Write a folder at its final path; the old one comes back if the block fails or is killed."""
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
    """Yield a temporary path beside ``target`` that replaces ``target`` when the block succeeds."""
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
    """Read a JSON file that holds an object and is not too large."""
    with readable(path):
        if not path.is_file():
            raise UserError(f"{path} is missing, or is not a file")
        if path.stat().st_size > _LARGEST_JSON:
            raise UserError(f"{path} is larger than {_LARGEST_JSON} bytes")
        data = path.read_bytes()
    try:
        values = json.loads(data.decode())
    # The decoder limits its own depth, and refuses numbers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON, or it is damaged") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object")
    return values


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
