"""Which outputs are refused: the one rule of every command that writes."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.markers import foreign_file, is_marked, owner
from revt_hf.core.replacing import real_path

Place = str | Path | None
_ELSEWHERE = "choose another output"
_JSON_START = 64


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
    target = _filled_folder(path)
    if target is None:
        return
    if not overwrite:
        raise UserError(f"{path} exists already: {_ELSEWHERE} or pass --overwrite")
    if not is_marked(target):
        raise UserError(
            f"{path} was not written by revt, so it is not overwritten: {_ELSEWHERE}, or delete it "
            "yourself"
        )
    _check_ours(path, foreign_file(target))


def check_growing(
    path: Path,
    overwrite: bool,
    patterns: Collection[str],
    inputs: Iterable[Place] = (),
    inside: bool = False,
) -> None:
    """Refuse an output folder that is added to, if that would destroy something.

    Args:
        path: the folder.
        overwrite: whether it may hold something.
        patterns: what may be written; all other files stay as they are.
        inputs: as in :func:`check_output`.
        inside: it may lie in an input.

    Raises:
        UserError: as :func:`check_output`; of the files only those that might be written count.
    """
    check_apart(path, inputs, inside)
    target = _filled_folder(path)
    if target is None:
        return
    if not overwrite:
        raise UserError(f"{path} exists already: {_ELSEWHERE} or pass --overwrite")
    _check_ours(path, foreign_file(target, patterns))


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


def check_beside(path: Path, others: Iterable[Path | None]) -> None:
    """Refuse an output folder that is, holds or lies in another output, which need not exist yet.

    Raises:
        UserError: it does.
    """
    with readable_os_errors(path):
        target = real_path(path)
        for other in others:
            place = None if other is None else real_path(other)
            if place and (target in (place, *place.parents) or place in target.parents):
                raise UserError(f"{path} and {other} are both written to: {_ELSEWHERE}")


def check_suffix(path: Path, *suffixes: str) -> None:
    """Refuse an output file whose name says that it is of another kind than what is written.

    Args:
        path: the file.
        suffixes: that fit, lower case, the usual one first.

    Raises:
        UserError: it has another, or none.
    """
    if path.suffix.lower() not in suffixes:
        kind = suffixes[0][1:]
        raise UserError(f"{path}: {kind.upper()} is written, so its name has to end in .{kind}")


def check_output_file(
    path: Path | None,
    overwrite: bool | None = None,
    inputs: Iterable[Place] = (),
    outputs: Iterable[Place] = (),
) -> None:
    """Refuse, before the work, an output file that cannot be written or would destroy something.

    Args:
        path: such as ``--json``'s; None is passed over.
        overwrite: whether an existing file may be replaced; None for ``--json``, whose results
            replace an older file of JSON and no other.
        inputs: everything the command reads, but folders that results may lie in.
        outputs: what else the command writes.

    Raises:
        UserError: ``path`` is a folder or no regular file, lies where nothing can be written, is
            or lies in an input or another output, is a file of a model's folder
            or of another output's, or exists and may not be replaced.
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
        _check_elsewhere(path, target, "input", inputs)
        _check_elsewhere(path, target, "output", outputs)
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


def _check_elsewhere(path: Path, target: Path, kind: str, others: Iterable[Place]) -> None:
    for given in others:
        # An output may be still to come; an input that is not there is on the Hub.
        to_come = given is not None and kind == "output"
        for place in [real_path(str(given))] if to_come else _places(given):
            if place == target:
                raise UserError(f"{path} is the {kind} {given}: {_ELSEWHERE}")
            if place in target.parents:
                raise UserError(f"{path} lies in the {kind} {given}: {_ELSEWHERE}")


def _filled_folder(path: Path) -> Path | None:
    """Where an output really lies if there is something in it.

    Raises:
        UserError: it is no folder, or nothing can be written beside it.
    """
    with readable_os_errors(path):
        target = real_path(path)
        if os.path.lexists(target) and not target.is_dir():
            raise UserError(f"{path} is not a folder: {_ELSEWHERE}")
        _check_writable(path, target)
        return target if target.is_dir() and any(target.iterdir()) else None


def _check_ours(path: Path, foreign: str | None) -> None:
    if foreign is not None:
        raise UserError(
            f"{path} holds {foreign}, which revt did not write: move it away, or {_ELSEWHERE}"
        )


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
        yield from [real_path(entry) for entry in place.iterdir() if entry.is_symlink()]


def _check_writable(path: Path, target: Path) -> None:
    above = next(parent for parent in target.parents if os.path.lexists(parent))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"cannot write {path}: {above} is not a folder that may be written to")
