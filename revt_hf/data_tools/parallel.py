"""Work on many images in threads: OpenCV, Pillow's encoders and file reads release the GIL."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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

    ``workers`` is all cores by default, and at most twice as many: each holds some results. Several
    workers use one thread of OpenCV each.
    """
    count = min(workers or core_count(), _THREADS_A_CORE * core_count())
    opencv_threads = cv2.getNumThreads()
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            if count > 1:
                cv2.setNumThreads(1)
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
