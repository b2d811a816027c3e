"""Work on many images in threads, and find damage inside JPEGs, which decoders paper over."""

import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2

from revt_hf.core.resources import core_count

Item = TypeVar("Item")
Result = TypeVar("Result")
FindDamage = Callable[[str], str | None]

# Reading from far away may take longer than decoding.
_THREADS_A_CORE = 2
_AHEAD = 4  # items a worker may be ahead of the reader: bounds the memory
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file")
_DONE = "done"
# Imports OpenCV only; libjpeg writes a file's first warning only.
_DECODER = f"""
import json, sys
import cv2
cv2.setNumThreads(1)
for line in sys.stdin:
    cv2.imread(json.loads(line), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    print({_DONE!r}, file=sys.stderr, flush=True)
"""


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Results of ``work`` in the order of ``items``; ``workers`` is all cores by default."""
    count = min(workers or core_count(), _THREADS_A_CORE * core_count())
    opencv_threads = cv2.getNumThreads()
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            if count > 1:
                cv2.setNumThreads(1)  # in each thread
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= _AHEAD * count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            cv2.setNumThreads(opencv_threads)


@contextmanager
def jpeg_damage() -> Iterator[FindDamage]:
    """A function that gives libjpeg's warning about a JPEG file that can be decoded, or None."""
    # libjpeg only warns on standard error: a process for each thread decodes again and pipes it.
    own = threading.local()
    started: list[subprocess.Popen[str]] = []

    def find(path: str) -> str | None:
        decoder = getattr(own, "decoder", None)
        if decoder is None or decoder.poll() is not None:
            decoder = own.decoder = subprocess.Popen(
                [sys.executable, "-c", _DECODER],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            started.append(decoder)
        assert decoder.stdin is not None and decoder.stderr is not None  # noqa: S101
        found = None
        try:
            decoder.stdin.write(json.dumps(path) + "\n")
            decoder.stdin.flush()
        except OSError:
            return "its decoder crashed"
        while (line := decoder.stderr.readline()) != f"{_DONE}\n":
            if not line:
                return "its decoder crashed"
            if line.startswith(_DAMAGE):
                found = found or line.strip()
        return found

    try:
        yield find
    finally:
        for decoder in started:
            decoder.kill()
            decoder.communicate()
