"""Fingerprints of the files that the steps of an experiment read and write."""

from pathlib import Path

from revt_hf.checkpoints.image_processor import PROCESSOR_FILE
from revt_hf.checkpoints.tensors import CONFIG_FILE, WEIGHTS_FILE, open_checkpoint
from revt_hf.config.sections import Section
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256


class Stamp(Section):
    """A result file: size, time and sha256, and the sha256 of the small files it depends on."""

    size: int
    modified_ns: int
    sha256: str
    beside: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """The content of the result, whenever it was written."""
        return _joined([self.sha256], self.beside)


class FileHashes:
    """sha256 of files; a file whose size and time stay the same is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], str] = {}

    def sha256(self, path: Path) -> str:
        """The sha256 of a file."""
        now = path.stat()
        key = (path, now.st_size, now.st_mtime_ns)
        if key not in self._known:
            self._known[key] = file_sha256(path)
        return self._known[key]

    def of_checkpoint(self, source: str) -> str:
        """A fingerprint of a checkpoint's files; for a Hub ID, the ID.

        Raises:
            UserError: there is no such checkpoint, or it cannot be read.
        """
        if not Path(source).exists():
            from revt_hf.checkpoints.download import is_hub_id

            if not is_hub_id(source):
                raise UserError(f"there is no checkpoint {source}")
            return source
        with open_checkpoint(source, quiet=True) as found:
            beside = _beside(found.folder) if found.folder else {}
            return _joined([*map(self.sha256, found.originals)], beside)

    def stamp(self, result: Path) -> Stamp:
        """The stamp of a step's result."""
        now = result.stat()
        return Stamp(
            size=now.st_size,
            modified_ns=now.st_mtime_ns,
            sha256=self.sha256(result),
            beside=_beside(result.parent) if result.name == WEIGHTS_FILE else {},
        )

    def is_same(self, result: Path, stamp: Stamp) -> bool:
        """Whether a result has the content that it had when it was stamped."""
        if result.name == WEIGHTS_FILE and _beside(result.parent) != stamp.beside:
            return False
        now = result.stat()
        unchanged = (stamp.size, stamp.modified_ns) == (now.st_size, now.st_mtime_ns)
        return unchanged or self.sha256(result) == stamp.sha256


def _beside(folder: Path) -> dict[str, str]:
    """Hashes of the files that determine how weights are used: architecture, classes, images."""
    found = (folder / name for name in (CONFIG_FILE, PROCESSOR_FILE))
    return {path.name: file_sha256(path) for path in found if path.is_file()}


def _joined(hashes: list[str], beside: dict[str, str]) -> str:
    return " ".join([*hashes, " ".join(f"{name}:{digest}" for name, digest in beside.items())])
