"""Work on many images in threads: OpenCV, Pillow's encoders and file reads let others run."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2

from revt_hf.core.resources import core_count

Item = TypeVar("Item")
Result = TypeVar("Result")

# Reading from far away may take longer than decoding.
_THREADS_A_CORE = 2
_AHEAD = 4  # items a worker may be ahead of the reader: bounds the memory


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Results of ``work`` in the order of ``items``.

    ``workers`` is all cores by default, and no more than twice as many: each holds some results.
    """
    count = min(workers or core_count(), _THREADS_A_CORE * core_count())
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count) as pool, _opencv_threads(1 if count > 1 else None):
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= _AHEAD * count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def _opencv_threads(count: int | None) -> Iterator[None]:
    """Let OpenCV use that many threads within each of ours; None leaves it as it is."""
    before = cv2.getNumThreads()
    if count is not None:
        cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
