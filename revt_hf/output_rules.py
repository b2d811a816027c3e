"""Which outputs are refused: the one rule of every command that writes."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from revt_hf.errors import UserError, readable_os_errors
from revt_hf.markers import foreign_file, is_marked
from revt_hf.replacing import real_path

Place = str | Path | None
_ELSEWHERE = "choose another output"


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


def check_output_file(
    path: Path | None,
    overwrite: bool = True,
    inputs: Iterable[Place] = (),
    suffixes: tuple[str, ...] = (),
) -> None:
    """Refuse, before the work, an output file that cannot be written or would destroy an input.

    Args:
        path: such as ``--json``'s; None is passed over.
        overwrite: whether an existing file may be replaced.
        inputs: everything the command reads.
        suffixes: of names for what is written, lower case; without, any will do.

    Raises:
        UserError: ``path`` has another suffix, is a folder or no regular file, lies where nothing
            can be written, exists and is or lies in an input, or exists and ``overwrite`` is false.
    """
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        kind = suffixes[0][1:]
        raise UserError(f"{path}: what is written is {kind.upper()}: let the name end in .{kind}")
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
