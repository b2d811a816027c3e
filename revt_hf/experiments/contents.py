"""Hashes of what an experiment's steps read and wrote: weights once, small files at every look."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from revt_hf.checkpoints.image_processor import PROCESSOR_FILE
from revt_hf.checkpoints.tensors import CONFIG_FILE, WEIGHTS_FILE, open_checkpoint
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256

# Size, time and hash of a result; hashes of the files that say how its weights are used.
_STAMP = TypeAdapter(tuple[int, int, str, dict[str, str]])
_FIELDS = ("size", "modified_ns", "sha256", "beside")


class Contents:
    """Hashes of files; one that keeps its size and time is read once."""

    def __init__(self) -> None:
        self._hashes: dict[tuple[Path, int, int], str] = {}

    def sha256(self, path: Path) -> str:
        """Of a file."""
        now = path.stat()
        key = (path, now.st_size, now.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = file_sha256(path)
        return self._hashes[key]

    def of_checkpoint(self, source: str) -> str:
        """A hash of a checkpoint's files; of a Hub id, the id.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        if not Path(source).exists():
            from revt_hf.checkpoints.download import is_hub_id

            if not is_hub_id(source):
                raise UserError(f"there is no checkpoint {source}")
            return source
        with open_checkpoint(source, quiet=True) as found:
            beside = _beside(found.folder) if found.folder else {}
            return " ".join([*map(self.sha256, found.originals), _words(beside)])

    def stamp(self, result: Path) -> dict[str, Any]:
        """What a step's result is: of a model's weights, with the files that belong to them."""
        now = result.stat()
        beside = _beside(result.parent) if result.name == WEIGHTS_FILE else {}
        values = (now.st_size, now.st_mtime_ns, self.sha256(result), beside)
        return dict(zip(_FIELDS, values, strict=True))

    def is_same(self, result: Path, stamp: Mapping[str, Any]) -> bool:
        """Whether a result is what it was when its stamp was made."""
        if result.name == WEIGHTS_FILE and _beside(result.parent) != stamp["beside"]:
            return False
        now = result.stat()
        if [stamp["size"], stamp["modified_ns"]] == [now.st_size, now.st_mtime_ns]:
            return True
        return bool(self.sha256(result) == stamp["sha256"])


def check_stamp(stamp: Mapping[str, Any]) -> None:
    """Refuse what is not a stamp.

    Raises:
        ValueError, LookupError or TypeError: it is none.
    """
    _STAMP.validate_python([stamp[name] for name in _FIELDS])


def fingerprint_of(stamp: Mapping[str, Any]) -> str:
    """A hash of the result that a stamp is of."""
    return " ".join([stamp["sha256"], _words(stamp["beside"])])


def _beside(folder: Path) -> dict[str, str]:
    """Hashes of the files that say what weights mean: the network, its classes, its images."""
    found = (folder / name for name in (CONFIG_FILE, PROCESSOR_FILE))
    return {path.name: file_sha256(path) for path in found if path.is_file()}


def _words(beside: Mapping[str, str]) -> str:
    return " ".join(f"{name}:{digest}" for name, digest in beside.items())
