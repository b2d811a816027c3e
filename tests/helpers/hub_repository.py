"""What the local Hub of the tests holds, and what shall go wrong with it."""

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Failure:
    """What goes wrong on requests: ``times`` of them, or all.

    ``where`` is a part of ``METHOD /path?query``, or parts with ``*`` between them. ``what`` is a
    status to answer, with ``headers`` and ``body``; or ``cut`` (half of the body is read, then the
    connection ends), ``silence`` (the same, without an end), ``damage`` (the body arrives changed),
    ``forget`` (all is done, but the answer is lost), ``stall`` and ``half`` (half of the answer's
    body, then nothing or the end), ``drip`` (byte after byte) or ``wrong`` (the answer's body is
    changed).
    """

    where: str
    what: int | str
    times: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def hits(self, request: str) -> bool:
        if self.times == 0 or not all(part in request for part in self.where.split("*")):
            return False
        self.times = None if self.times is None else self.times - 1
        return True


class Repository:
    def __init__(self, files: dict[str, bytes], private: bool = False) -> None:
        self.commits = {COMMIT: files}
        self.refs = {"main": COMMIT, "v1": COMMIT}
        self.pulls: list[str] = []
        self.private = private

    def oid(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[str(self.oid(revision))]

    def commit(self, ref: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {ref} {sorted(files)}".encode()).hexdigest()
        self.commits[oid], self.refs[ref] = files, oid
        return oid


@dataclass
class Pages:
    """A collection: its title and owner, and the (id, type) of its items."""

    title: str
    owner: str
    private: bool = False
    items: list[tuple[str, str]] = field(default_factory=list)

    @property
    def slug(self) -> str:
        digest = hashlib.sha1(f"{self.owner} {self.title}".encode()).hexdigest()[:24]
        return f"{self.owner}/{'-'.join(self.title.lower().split())}-{digest}"


@dataclass
class Hub:
    """A running server: its address, what it holds, what it was asked, and what shall fail.

    With ``ranges`` it sends parts of files, and large ones lie on another host, the ``storage``.
    ``sent`` are name, begin and end of the files and parts that were asked for, ``shown`` the
    requests with a token to the storage.
    """

    token: str | None = None
    endpoint: str = ""
    ranges: bool = False
    storage: str = ""
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    collections: dict[str, Pages] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def model(self, name: str) -> Repository:
        return self.repositories["models", name]

    def collect(self, title: str, owner: str = "me", private: bool = False) -> Pages:
        made = Pages(title, owner, private)
        self.collections[made.slug] = made
        return made

    def make(self, kind: str, name: str, private: bool = False) -> Repository:
        made = Repository({".gitattributes": b"*.safetensors filter=lfs\n"}, private)
        self.repositories[kind, name] = made
        return made


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
