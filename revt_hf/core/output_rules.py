"""Which outputs may be written: the one rule of every command."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.markers import foreign_file, is_marked, owner

InputPath = str | Path | None
_ELSEWHERE = "choose another output"
_JSON_START = 64


def real_path(path: str | Path) -> Path:
    """The absolute path with all links resolved; of links in a circle, one of them."""
    return Path(os.path.realpath(path))


def check_output(
    path: Path,
    overwrite: bool,
    inputs: Iterable[InputPath] = (),
    patterns: Collection[str] | None = None,
    inside: bool = False,
) -> None:
    """Refuse an output folder that would destroy something.

    Args:
        path: the folder; links are followed.
        overwrite: whether a folder that we wrote may be replaced, or added to.
        inputs: everything the command reads; Hub ids and None are ignored.
        patterns: files that may be added (``fnmatch``), all others stay; None replaces the folder.
        inside: allow the output to lie in an input.

    Raises:
        UserError: ``path`` is, contains or lies in an input; is or contains the working directory
            or the home directory; is not a folder; or is not empty and ``overwrite`` is false, or
            contains anything (with ``patterns``, anything that matches) that we did not write.
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
    """Refuse an output folder that overlaps an input, the working directory or the home directory.

    Args:
        path: the output.
        inputs: as in :func:`check_output`.
        inside: allow the output to lie in an input.

    Raises:
        UserError: it overlaps one of them.
    """
    with readable_os_errors(path):
        target = real_path(path)
        for name, find in (("working directory", Path.cwd), ("home directory", Path.home)):
            try:
                protected = real_path(find())
            except (OSError, RuntimeError):
                continue
            if target in (protected, *protected.parents):
                raise UserError(f"{path} is or holds the {name}: {_ELSEWHERE}")
        for given in inputs:
            for place in _input_paths(given):
                if target in (place, *place.parents):
                    raise UserError(f"{path} is or holds the input {given}: {_ELSEWHERE}")
                if place in target.parents and not inside:
                    raise UserError(f"{path} lies in the input {given}: {_ELSEWHERE}")


def check_beside(path: Path, others: Iterable[Path | None]) -> None:
    """Refuse an output folder that overlaps another output, which need not exist yet.

    Raises:
        UserError: they overlap.
    """
    with readable_os_errors(path):
        target = real_path(path)
        for other in others:
            place = None if other is None else real_path(other)
            if place and (target in (place, *place.parents) or place in target.parents):
                raise UserError(f"{path} and {other} are both written to: {_ELSEWHERE}")


def check_suffix(path: Path, *suffixes: str) -> None:
    """Refuse an output file whose suffix does not match the format that is written.

    Args:
        path: the file.
        suffixes: accepted ones, lower case, the usual one first.

    Raises:
        UserError: it has another suffix, or none.
    """
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

    Args:
        path: the file; None is ignored.
        overwrite: whether an existing file may be replaced; None for ``--json``, whose results
            replace older JSON files and nothing else.
        inputs: everything the command reads, except folders that results may lie in.
        outputs: everything else the command writes.

    Raises:
        UserError: ``path`` is a folder or not a regular file, lies where nothing can be written,
            is or lies in an input or another output, belongs to a model folder or another output,
            or exists and may not be replaced.
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
        places = [("input", given, place) for given in inputs for place in _input_paths(given)]
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
        for place in (target, real_path(path.parent) / path.name):
            folder = owner(place)
            if folder is not None:
                raise UserError(f"{path} is a file of {folder}: {_ELSEWHERE}")
        if not os.access(target.parent, os.W_OK):
            raise UserError(f"cannot write {path}: {target.parent} may not be written to")
    if overwrite is None:
        with readable_os_errors(path), target.open("rb") as file:
            if file.read(_JSON_START).lstrip()[:1] not in (b"{", b"[", b""):
                raise UserError(f"{path} exists already and is not JSON: {_ELSEWHERE}")
    elif not overwrite:
        raise UserError(f"{path} exists already: {_ELSEWHERE} or pass --overwrite")


def _check_writable(path: Path, target: Path) -> None:
    above = next(parent for parent in target.parents if os.path.lexists(parent))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"cannot write {path}: {above} is not a folder that may be written to")


def _input_paths(given: InputPath) -> Iterator[Path]:
    """The resolved input, and the targets of links directly inside it."""
    if given is None or not os.path.lexists(given):
        return
    place = real_path(given)
    yield place
    if place.is_dir():
        yield from [real_path(entry) for entry in place.iterdir() if entry.is_symlink()]
