"""Bounded requests to the Hub: timeouts, retries and waiting all end.

``huggingface_hub`` has one HTTP client per process. By default it waits forever for an answer,
sleeps as long as a server asks (``Retry-After``), and uses what a server names as a path.
"""

import json
import logging
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from revt_hf.core.errors import causes

# A request, with its retries, fails after so long without an answer or 64 KiB of a file.
PATIENCE_SECONDS = 60.0
PROGRESS_BYTES = 65536
_MOST_REPEATS = 20  # of one address
_MOST_REQUESTS = 1000
_OK, _REFUSED, _BUSY, _BROKEN = 200, 400, 429, 500
_LIMIT = re.compile(r";\s*r=0\s*;\s*t=(\d+)")
_RANGE = re.compile(r"bytes (\d{1,18})-")
_ETAG = re.compile(r"(W/)?[^/\\]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOST = ("ReadError", "WriteError", "RemoteProtocolError", "CloseError")
# There is one client per process: two blocks at once would restore each other's.
_ONE_AT_A_TIME = threading.RLock()


class HubError(Exception):
    """Why no further requests are made, as part of a sentence."""


@contextmanager
def bounded_requests(answer_seconds: float) -> Iterator["Limits"]:
    """Bound every request of ``huggingface_hub`` within this block: each fails without progress.

    One attempt may wait ``answer_seconds`` where the library sets no limit.
    """
    from huggingface_hub.utils import _http as http
    from huggingface_hub.utils import logging as hub_logging

    with _ONE_AT_A_TIME:
        level = hub_logging.get_verbosity()
        if level == logging.WARNING:
            # Retries would be logged; failures are raised anyway.
            hub_logging.set_verbosity_error()
        limits = Limits(answer_seconds)
        client, factory = http._GLOBAL_CLIENT, http._GLOBAL_CLIENT_FACTORY
        with http._CLIENT_LOCK:
            http._GLOBAL_CLIENT = None
            http._GLOBAL_CLIENT_FACTORY = lambda: limits.bind(factory())
        try:
            yield limits
        finally:
            with http._CLIENT_LOCK:
                http._GLOBAL_CLIENT, http._GLOBAL_CLIENT_FACTORY = client, factory
            limits.release(client)
            hub_logging.set_verbosity(level)


class Limits:
    """Limits on the requests of one block."""

    def __init__(self, answer_seconds: float) -> None:
        from huggingface_hub import constants

        named = (constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self._patience = max(PATIENCE_SECONDS, *named)
        self._answer = answer_seconds
        self._asked: Counter[str] = Counter()
        # Addresses without a complete answer: asking again is a retry.
        self._open: set[str] = set()
        self._redirected = False
        self._reached: Counter[str] = Counter()
        self._bound: list[tuple[Any, Any]] = []
        self._answered = False
        self.told = 0  # seconds to wait, as the last busy answer said
        self._progress()

    @property
    def failed(self) -> bool:
        """Whether there were requests but no answer."""
        return bool(self._asked) and not self._answered

    def bind(self, client: Any) -> Any:
        """Add these limits to a client; its own hooks run first."""
        # httpx, or the package that replaces it in newer versions.
        http = sys.modules[type(client).__module__.partition(".")[0]]
        hooks = client.event_hooks

        def before(request: Any) -> None:
            self.before(request)
            request.stream = _watched(http, request.stream, self._moved)

        def after(response: Any) -> None:
            ended = self.after(response)
            response.stream = _watched(http, response.stream, self.counter(response), ended)
            if response.status_code == _OK and "/revision/" in response.request.url.path:
                _check_commit(response)

        self._bound.append((client, hooks))
        client.event_hooks = {
            "request": [*hooks["request"], before],
            "response": [*hooks["response"], after],
        }
        return client

    def release(self, kept: Any) -> None:
        """Remove the limits, and close all clients except ``kept``."""
        for client, hooks in self._bound:
            client.event_hooks = hooks
            if client is not kept:
                client.close()

    def _progress(self) -> None:
        self._bytes, self._deadline = 0, time.monotonic() + self._patience

    def _moved(self, count: int) -> None:
        """Count bytes sent or received."""
        self.left()
        self._bytes += count
        if self._bytes >= PROGRESS_BYTES:
            self._progress()

    def counter(self, response: Any) -> Callable[[int], None]:
        """Count new bytes of an answer: those that an earlier attempt received do not count."""
        address = _address(response.request)
        begin = _RANGE.match(response.headers.get("Content-Range", ""))
        at = int(begin[1]) if begin else 0

        def count(length: int) -> None:
            nonlocal at
            at += length
            self._moved(max(0, min(length, at - self._reached[address])))
            self._reached[address] = max(at, self._reached[address])

        return count

    def idle(self, seconds: float) -> None:
        """Leave out a time in which nothing was asked of the Hub."""
        self._deadline += seconds

    def left(self) -> float:
        """Seconds until requests without progress end."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise HubError(f"the Hub did not answer within {self._patience:g} seconds")
        return left

    def before(self, request: Any) -> None:
        """Bound a request that is about to be sent."""
        address = _address(request)
        if address not in self._open and not self._redirected:
            self._progress()
        self._open.add(address)
        left = self.left()
        self._asked[address] += request.method in ("GET", "HEAD")
        if self._asked[address] > _MOST_REPEATS or self._asked.total() > _MOST_REQUESTS:
            raise HubError("the Hub keeps answering without coming to an end")
        limits = dict(request.extensions.get("timeout") or {})
        for kind in ("connect", "read", "write", "pool"):
            given = limits.get(kind)
            limits[kind] = min(left, self._answer if given is None else given)
        request.extensions = {**request.extensions, "timeout": limits}

    def after(self, response: Any) -> Callable[[], None]:
        """Check the head of an answer; returns what to do once its body is complete."""
        for name in ("ETag", "X-Linked-ETag"):
            if not _ETAG.fullmatch(response.headers.get(name, "")):
                raise HubError(f"the Hub's {name} is a path, not the name of a file's content")
        status = response.status_code
        self._redirected = response.has_redirect_location
        if status == _BUSY or status >= _BROKEN:
            told = response.headers.get("Retry-After", "").strip()
            limit = _LIMIT.search(response.headers.get("ratelimit", ""))
            waits = [told if told.isdecimal() else "0", limit[1] if limit else "0"]
            # Python refuses to parse thousands of digits.
            self.told = seconds = max(int(text[:9]) for text in waits)
            if seconds > self.left():
                raise HubError(f"the Hub asks to wait {seconds} seconds (status {status})")
            return lambda: None
        self._answered |= status < _REFUSED
        address = _address(response.request)
        return lambda: self._open.discard(address)


def _address(request: Any) -> str:
    # Parts of a file are things of their own; who resumes one asks for the same end.
    end = request.headers.get("Range", "").partition("-")[2]
    return f"{request.method} {request.url} {end}"


def _check_commit(response: Any) -> None:
    try:
        commit = json.loads(response.read()).get("sha")
    except (ValueError, AttributeError) as error:
        raise HubError("the Hub's answer is not JSON: check HF_ENDPOINT") from error
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise HubError("the Hub's answer names no commit: check HF_ENDPOINT")


def _watched(
    http: Any, stream: Any, moved: Callable[[int], None], ended: Callable[[], None] = lambda: None
) -> Any:
    """A stream that calls ``moved`` with the length of each chunk, and ``ended`` after the last."""

    class Watched(http.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for chunk in stream:
                moved(len(chunk))
                yield chunk
            ended()

        def close(self) -> None:
            stream.close()

    return Watched()


def failed_transport(error: BaseException, endpoint: str) -> str | None:
    """Why a request got no answer; None if the error is of another kind."""
    if isinstance(error, HubError):
        return str(error)
    name, of_transport = type(error).__name__, type(error).__module__.startswith("httpx")
    if of_transport and "Timeout" in name:
        return f"{endpoint} did not answer in time"
    if of_transport and name == "TooManyRedirects":
        return f"{endpoint} redirects without end"
    if of_transport and name in _LOST:
        return f"the connection to {endpoint} was lost"
    if of_transport or isinstance(error, ConnectionError):
        return f"no connection to {endpoint}"
    return None


def is_unasked(error: BaseException) -> bool:
    """Whether the Hub could not be asked, so that what it holds is unknown."""
    from huggingface_hub import errors

    found = list(causes(error))
    # A status that it answers with is an error of the transport, too.
    answered = any(getattr(cause, "response", None) is not None for cause in found)
    offline = any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in found)
    return offline or (not answered and any(failed_transport(cause, "") for cause in found))


LOGIN = "log in with 'hf auth login' or set HF_TOKEN"


def reason_of(error: BaseException, repository: str, revision: str) -> str:
    """Why a request failed and what to do, without any of the error's own message."""
    from huggingface_hub import constants, errors, get_token

    hub = constants.ENDPOINT
    page = f"{hub}/{repository}"
    offline = (
        "the cache does not hold all of it, and HF_HUB_OFFLINE is set: unset that to download it"
    )
    gated = f"the model is gated: accept its license on {page} with your account, and {LOGIN}"
    absent = f"no model {page} is public or open to your token: check the name, or {LOGIN}"
    known = "refuses your token" if get_token() else "asks for a token"
    by_kind = (
        (errors.OfflineModeIsEnabled, offline),
        (errors.HFValidationError, f"'{repository}' is not the id of a Hub model either"),
        (errors.GatedRepoError, gated),
        (errors.RevisionNotFoundError, f"{page} has no branch, tag or commit '{revision}'"),
        (errors.RepositoryNotFoundError, absent),
        (errors.EntryNotFoundError, "a file of it was removed from the Hub meanwhile: try again"),
    )
    by_status = {
        401: f"{hub} {known} (status 401): {LOGIN}",
        403: f"your token may not read {page} (status 403): ask its owner, or {LOGIN}",
    }
    for cause in causes(error):
        # That a file is not in the cache is not the reason: why was it looked up there?
        if isinstance(cause, errors.LocalEntryNotFoundError):
            continue
        for kind, sentence in by_kind:
            if isinstance(cause, kind):
                return sentence
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            other = f"{hub} answered with status {status}: try again later"
            return by_status.get(status, other)
        lost = failed_transport(cause, hub)
        if lost is not None:
            return f"{lost}: check the network, or try again later"
        if isinstance(cause, OSError) and cause.errno:
            return (
                f"cannot write to the Hub's cache {constants.HF_HUB_CACHE} "
                f"({os.strerror(cause.errno)}): set HF_HOME to a folder with space"
            )
    return f"the download broke off ({type(error).__name__}): try again"
