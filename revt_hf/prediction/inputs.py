"""Find the images and videos to predict, and give each a name that no other has."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.core.outputs import check_apart
from revt_hf.data.decoding import decode_image, open_image
from revt_hf.data.domains.base import by_reason
from revt_hf.data.domains.files import NOT_UTF8, list_files
from revt_hf.data.parallel import FindDamage

IMAGES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2"),
}
# Images that OpenCV does not read, or not in every version.
_OTHERS = {
    *(".heic", ".heif", ".jxl", ".j2k", ".jpx", ".psd", ".tga", ".exr", ".hdr", ".pfm", ".svg"),
    *(".dng", ".arw", ".cr2", ".cr3", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw", ".raw"),
}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
_TAKEN = IMAGES | VIDEOS

# File systems allow 255 bytes, and results add a suffix and a scratch file's prefix.
_LONGEST = 220


@dataclass(frozen=True)
class Input:
    """An image or a video; ``name`` is that of its results, with folders and without suffix."""

    path: Path
    name: str
    is_video: bool


def find_inputs(paths: Sequence[Path], output: Path) -> tuple[list[Input], dict[str, str]]:
    """All images and videos in files and folders, each once; and files that fail, with the reason.

    Hidden files and everything in ``output`` are skipped, other image formats with a warning. A
    file that is named itself is taken whatever its suffix. Names are relative to the folder, and of
    several paths they begin with the folder's own name.
    """
    found: dict[str, tuple[Path, PurePosixPath]] = {}
    left_out: dict[str, str] = {}
    for path in paths:
        check_apart(output, [path], inside=True)
        files, prefix = [(path, path.name)], ""
        if path.is_dir():
            files = list(_inside(path, output, left_out))
            if not files and not left_out:
                raise UserError(_nothing_in(path))
            prefix = path.resolve().name if len(paths) > 1 else ""
        elif not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
        elif not path.is_file():
            files, left_out[str(path)] = [], "not a regular file"
        for file, name in files:
            # Links are not followed: each is an image with a name of its own.
            found.setdefault(os.path.abspath(file), (file, PurePosixPath(prefix, name)))  # noqa: PTH100
    names = unique_names([name for _, name in found.values()])
    inputs = []
    for (path, _), unique in zip(found.values(), names, strict=True):
        longest = max(len(os.fsencode(part)) for part in unique.split("/"))
        if _shown(unique) != unique:
            left_out[_shown(str(path))] = NOT_UTF8
        elif longest > _LONGEST:
            reason = f"its name has {longest} bytes, too many for its results'"
            left_out[_shown(str(path))] = f"{reason} ({_LONGEST} at most)"
        else:
            inputs.append(Input(path, unique, path.suffix.lower() in VIDEOS))
    return inputs, left_out


def read_image(
    find_damage: FindDamage, item: Input
) -> tuple[Input, NDArray[np.uint8] | UserError, str | None]:
    """The input, its image (H, W, 3) or why it cannot be read, and the damage inside a JPEG."""
    try:
        file = open_image({"path": str(item.path), "bytes": None})
        image = decode_image(file)
    except UserError as error:
        return item, error, None
    return item, image, find_damage(str(item.path)) if file.header.kind == "jpeg" else None


def unique_names(files: Sequence[PurePosixPath]) -> list[str]:
    """Names without suffix, none of which is another's or its folder, in upper or lower case."""
    stems = [file.with_suffix("") for file in files]
    counts = Counter(map(_folded, stems))
    folders = {_folded(parent) for stem in stems for parent in stem.parents}
    names = [
        stem if counts[_folded(stem)] == 1 and _folded(stem) not in folders else file
        for stem, file in zip(stems, files, strict=True)
    ]
    taken = {_folded(parent) for name in names for parent in name.parents}
    unique = []
    for name in names:
        number, free = 1, name
        while _folded(free) in taken:
            number += 1
            free = name.with_name(f"{name.name}-{number}")
        taken.add(_folded(free))
        unique.append(str(free))
    return unique


def _folded(path: PurePosixPath) -> str:
    return str(path).casefold()


def _shown(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def _inside(folder: Path, output: Path, left_out: dict[str, str]) -> Iterator[tuple[Path, str]]:
    results = output.resolve()
    files, unusable = list_files(folder)
    others = []
    for name, file in files.items():
        path = Path(file.path)
        if results in path.resolve().parents:
            continue
        if path.suffix.lower() in _TAKEN:
            yield path, name
        elif path.suffix.lower() in _OTHERS:
            others.append((file.path, "save them as PNG or JPEG"))
    for sentence in by_reason(others):
        warnings.warn(sentence, DataWarning, stacklevel=2)
    for name, reason in unusable.items():
        if (folder / name).suffix.lower() in _TAKEN:
            left_out[str(folder / name)] = reason


def _nothing_in(folder: Path) -> str:
    if (folder / "config.json").exists():
        return f"{folder} is a model, not a folder of images: name it without --input"
    known = ", ".join(sorted(suffix[1:] for suffix in _TAKEN))
    return f"{folder} holds no images or videos ({known})"
