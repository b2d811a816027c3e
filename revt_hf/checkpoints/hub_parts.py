"""Weights on the Hub that are read in parts, by HTTP ranges at one commit.

The Hub redirects to its storage, another host with addresses that expire: the token is sent to the
Hub alone. Only the Hub's word says that the parts are those of a file with its sha256.
"""

import re
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from revt_hf.checkpoints.headers import TensorInfo, parse_header
from revt_hf.checkpoints.hub_requests import (
    PROGRESS_BYTES,
    HubError,
    Limits,
    failed_transport,
    reason_of,
)
from revt_hf.core.errors import UserError

# File, first byte and length of what is read, in this order.
Place = tuple[int, int, int]
_AHEAD = 4  # pieces of at most 64 KiB
_MOST_REDIRECTS = 5
_PAUSE_SECONDS, _LONGEST_PAUSE = 0.5, 8.0
_WHOLE, _PART, _BEYOND, _BUSY, _BROKEN = 200, 206, 416, 429, 500
_EXPIRED = (401, 403, 404, 410)
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class PartsError(Exception):
    """Why a model has to be downloaded whole, as part of a sentence."""


class _PassingError(HubError):
    """An answer after which asking again may help."""


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub lists it: length in bytes, sha256."""

    size: int
    sha256: str


class HubModel:
    """A Hub model at one commit; ``files`` are those that are read in parts, none if it is local.

    ``received`` counts the bytes of files that came so far.
    """

    def __init__(self, repository: str, commit: str, files: Mapping[str, HubFile]) -> None:
        self.repository, self.commit, self.received = repository, commit, 0
        # These paths name files in messages and cannot be opened.
        where = Path(f"{repository}@{commit}")
        self.files = {where / name: file for name, file in files.items()}
        self._storage: dict[Path, str] = {}
        self._tags: dict[Path, str] = {}

    def header(self, path: Path) -> tuple[list[TensorInfo], dict[str, str]]:
        """The tensors and the metadata of a file, of which only the header is read."""
        at = 0

        def read(length: int) -> bytes:
            nonlocal at
            begin, at = at, at + length
            return b"".join(self.parts(path, begin, at))

        with _one_sentence(self, path):
            return parse_header(path, self.files[path].size, read)

    def parts(
        self, path: Path, begin: int, end: int, stopped: threading.Event | None = None
    ) -> Iterator[bytes]:
        """Bytes ``begin`` to ``end`` (exclusive), going on at the same byte after a failure."""
        from huggingface_hub import constants

        stopped = stopped or threading.Event()
        limits, since = Limits(constants.HF_HUB_DOWNLOAD_TIMEOUT), begin
        failure, tries = None, 0
        while begin < end and not stopped.is_set():
            try:
                with ExitStack() as stack:
                    response = self._answer(path, begin, end, limits, stack)
                    stop = self._check_part(path, begin, end, response.headers)
                    count = limits.counter(response)
                    for piece in response.iter_raw():
                        if len(piece) > stop - begin:
                            raise HubError("the Hub sends more than it was asked for")
                        count(len(piece))
                        begin += len(piece)
                        self.received += len(piece)
                        failure, tries, now = None, 0, time.monotonic()
                        yield piece
                        limits.idle(time.monotonic() - now)
            except Exception as error:
                if not _is_passing(error):
                    if failure is not None and isinstance(error, HubError):
                        # Why asking again was needed says more than that it had to end.
                        raise failure from None
                    raise
                failure = error
                # It may have expired; the Hub knows another one.
                self._storage.pop(path, None)
                stopped.wait(max(min(_PAUSE_SECONDS * 2**tries, _LONGEST_PAUSE), limits.told))
                limits.told, tries = 0, tries + 1
                # Cuts are expected where a merge computes for long: only those in a row count.
                if begin - since >= PROGRESS_BYTES:
                    limits, since = Limits(constants.HF_HUB_DOWNLOAD_TIMEOUT), begin

    def _answer(self, path: Path, begin: int, end: int, limits: Limits, stack: ExitStack) -> Any:
        """The answer that holds a part or its begin; ``stack`` closes it."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
        )

        hub = hf_hub_url(self.repository, path.name, revision=self.commit)
        wanted = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        url = self._storage.get(path, hub)
        for _ in range(_MOST_REDIRECTS):
            token = build_hf_headers()
            if _origin(url) != _origin(hub):
                token.pop("authorization", None)
            request = get_session().build_request("GET", url, headers={**token, **wanted})
            limits.before(request)
            response = get_session().send(request, stream=True, follow_redirects=False)
            stack.callback(response.close)
            limits.after(response)
            if _origin(url) == _origin(hub):
                self._check_file(path, response.headers)
            if not response.has_redirect_location:
                break
            url = urljoin(url, response.headers["Location"])
            if urlsplit(url).scheme not in ("https", urlsplit(hub).scheme):
                raise HubError("the Hub redirects to an address that is not encrypted")
        else:
            raise HubError("the Hub redirects without end")
        status = response.status_code
        if status == _PART:
            if url != hub:
                self._storage[path] = url
            return response
        if status == _WHOLE:
            raise PartsError("the Hub answers with whole files, not with parts of them")
        if status == _BEYOND:
            raise _changed(path)
        if status == _BUSY or status >= _BROKEN:
            raise _PassingError(f"the Hub answered with status {status}")
        if url != hub and status in _EXPIRED:
            raise _PassingError(f"the Hub's storage refuses its address (status {status})")
        hf_raise_for_status(response)
        raise HubError(f"the Hub answered with status {status}")

    def _check_file(self, path: Path, headers: Mapping[str, str]) -> None:
        """Refuse an answer of the Hub about another commit or another file."""
        file = self.files[path]
        told = (
            (headers.get("X-Repo-Commit"), self.commit),
            (_plain(headers.get("X-Linked-ETag")), file.sha256),
            (headers.get("X-Linked-Size"), str(file.size)),
        )
        if any(value not in (None, wanted) for value, wanted in told):
            raise _changed(path)

    def _check_part(self, path: Path, begin: int, end: int, headers: Mapping[str, str]) -> int:
        """The end of the part; refuses other bytes than were asked for, and another file's."""
        found = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if headers.get("Content-Encoding", "identity") != "identity" or found is None:
            raise PartsError("the Hub does not say which part of a file it sends")
        first, last, size = found.groups()
        if int(first) != begin or int(last) >= end:
            raise HubError("the Hub sends other parts of a file than it was asked for")
        tag = _plain(headers.get("ETag"))
        if size not in ("*", str(self.files[path].size)) or (
            tag is not None and self._tags.setdefault(path, tag) != tag
        ):
            raise _changed(path)
        return int(last) + 1


class HubReader:
    """Fills buffers with what is read of a model, which comes ahead in a thread of its own.

    ``places`` are all that will be read, in order; anything else is asked for by itself.
    """

    def __init__(self, model: HubModel, places: Iterable[Place], stack: ExitStack) -> None:
        self._model, self._files = model, list(model.files)
        self._stopped = threading.Event()
        self._pieces = self._in_order(_joined(places))
        self._coming: deque[Future[tuple[int, int, bytes] | None]] = deque()
        self._next: tuple[int, int, memoryview] | None = None
        stack.callback(self._pieces.close)
        self._lane = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(self._stop)
        self._ask_ahead()

    def fill(self, file: int, offset: int, view: memoryview) -> None:
        """Fill ``view`` from byte ``offset`` of a file on."""
        path = self._files[file]
        try:
            with _one_sentence(self._model, path):
                self._fill(file, offset, view)
        except PartsError as why:
            raise UserError(
                f"cannot read {path} to its end: {why}; download it (hf download "
                f"{self._model.repository}) and run the command again"
            ) from None

    def _fill(self, file: int, offset: int, view: memoryview) -> None:
        while view:
            piece = self._next or self._arrived()
            if piece is None or piece[:2] != (file, offset):
                self._next, path = piece, self._files[file]
                apart = self._model.parts(path, offset, offset + len(view), self._stopped)
                view[:] = b"".join(apart)
                return
            content = piece[2]
            count = min(len(view), len(content))
            view[:count] = content[:count]
            view, offset = view[count:], offset + count
            self._next = (file, offset, content[count:]) if content[count:] else None

    def _arrived(self) -> tuple[int, int, memoryview] | None:
        found = self._coming.popleft().result()
        self._ask_ahead()
        return found and (*found[:2], memoryview(found[2]))

    def _ask_ahead(self) -> None:
        while len(self._coming) < _AHEAD:
            self._coming.append(self._lane.submit(next, self._pieces, None))

    def _in_order(self, places: Iterable[Place]) -> Generator[tuple[int, int, bytes], None, None]:
        for file, at, length in places:
            for piece in self._model.parts(self._files[file], at, at + length, self._stopped):
                yield file, at, piece
                at += len(piece)

    def _stop(self) -> None:
        self._stopped.set()
        for future in self._coming:
            future.cancel()


def _joined(places: Iterable[Place]) -> Iterator[Place]:
    """Neighbours as one place."""
    whole: Place | None = None
    for file, begin, length in places:
        if whole and (whole[0], whole[1] + whole[2]) == (file, begin):
            whole = (file, whole[1], whole[2] + length)
            continue
        if whole:
            yield whole
        whole = (file, begin, length)
    if whole:
        yield whole


@contextmanager
def _one_sentence(model: HubModel, path: Path) -> Iterator[None]:
    """Turn every failure into one sentence without a token."""
    try:
        yield
    except (UserError, PartsError):
        raise
    # As in a download, messages of the transport are not passed on.
    except Exception as error:  # noqa: BLE001
        reason = reason_of(error, model.repository, model.commit)
        raise UserError(f"cannot read {path}: {reason}") from None


def _is_passing(error: Exception) -> bool:
    """Whether asking again may help."""
    if isinstance(error, HubError):
        return isinstance(error, _PassingError)
    return failed_transport(error, "") is not None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _plain(tag: str | None) -> str | None:
    return tag and tag.removeprefix("W/").strip('"')


def _changed(path: Path) -> UserError:
    return UserError(f"{path} changed on the Hub while it was read: run the command again")
