"""The marker in every output folder: it lists our files, so that nothing else is overwritten."""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

MARKER_FILE = ".revt_hf.json"
# Names of unfinished files and folders, inside an output and beside it.
SCRATCH_PREFIX = ".revt-"
_FORMAT = "revt_hf.output/1"
_CONFIG_FILE = "config.json"
# The files of a model folder, whoever wrote it.
_MODEL_FILES = (
    MARKER_FILE,
    _CONFIG_FILE,
    "preprocessor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    "recipe.yaml",
    "merge.json",
    "recalibration.json",
    "run.json",
    "metrics.jsonl",
    "README.md",
)


def mark_output(
    folder: Path, patterns: Iterable[str] = (), files: Collection[str] = ("*",)
) -> None:
    """Write the marker of a folder that we have written or are about to write.

    Args:
        folder: the output.
        patterns: relative paths that may be written later (``fnmatch``; ``*`` also matches ``/``).
        files: patterns of the present files that are ours.
    """
    ours = [path for path in _files(folder) if not _is_scratch(path) and _matches(path, files)]
    value = {"format": _FORMAT, "files": sorted(ours), "patterns": list(patterns)}
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
    found = []
    for path in sorted(_files(folder)):
        if not _is_scratch(path):
            now = (folder / path).lstat()
            found.append([path, now.st_size, now.st_mtime_ns])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest() if found else None


def foreign_file(folder: Path, among: Collection[str] = ("*",)) -> str | None:
    """The first file of a folder that we did not write, relative; None if all are ours.

    Args:
        folder: with or without a marker.
        among: patterns of the files to consider.
    """
    files, patterns = _read_marker(folder) or (set(), [])
    for path in sorted(_files(folder)):
        ours = path in files or _is_scratch(path) or _matches(path, patterns)
        if not ours and _matches(path, among):
            return path
    return None


def owner(file: Path) -> Path | None:
    """The model folder or marked output that a file belongs to.

    Args:
        file: an absolute path.
    """
    for folder in file.parents:
        if is_listed(folder, file.relative_to(folder).as_posix()):
            return folder
    above = file.parent
    if _matches(file.name, _MODEL_FILES) and (is_marked(above) or (above / _CONFIG_FILE).is_file()):
        return above
    return None


def _read_marker(folder: Path) -> tuple[set[str], list[str]] | None:
    try:
        value = json.loads((folder / MARKER_FILE).read_bytes())
        if value["format"] != _FORMAT:
            return None
        return {str(path) for path in value["files"]}, [str(path) for path in value["patterns"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of files and of links, which are not followed."""
    for above, folders, files in os.walk(folder):
        links = [name for name in folders if Path(above, name).is_symlink()]
        for name in (*files, *links):
            yield Path(above, name).relative_to(folder).as_posix()


def _matches(path: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _is_scratch(path: str) -> bool:
    """Whether a path is a marker, or unfinished work of a killed process."""
    parts = path.split("/")
    return parts[-1] == MARKER_FILE or any(part.startswith(SCRATCH_PREFIX) for part in parts)
