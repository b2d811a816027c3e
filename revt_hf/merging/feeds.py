"""Reading members' tensors through small buffers."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from revt_hf.checkpoints.headers import ITEM_SIZES
from revt_hf.checkpoints.hub_parts import Place
from revt_hf.merging.members import MergeInput
from revt_hf.merging.registry import Array

# NumPy has no bfloat16: its bits are kept as integers.
STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_GAP_BYTES = 512 * 1024
Busy = list["Future[None]"]


def unpacked(view: memoryview, dtype: str) -> Array:
    """Bytes of a floating-point tensor as float32 or float64 (1-D), without a copy if possible."""
    raw = np.frombuffer(view, dtype=STORED[dtype])
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32) if dtype == "F16" else raw


class Feed:
    """A source's files: reads ranges, and in ``lane`` hashes every byte once, in order if it can.

    ``stack`` closes the files; ``places`` as in :meth:`Checkpoint.reader`.
    """

    def __init__(
        self,
        source: MergeInput,
        stack: ExitStack,
        lane: ThreadPoolExecutor | None = None,
        places: Iterable[Place] = (),
    ) -> None:
        self.source, self._lane = source, lane
        self._bytes = source.reader(stack, places)
        offsets = list(zip(source.file.tolist(), source.offset.tolist(), strict=True))
        # A temporary file is not what the user gave: the original is hashed by itself.
        local = source.hub is None or not source.hub.files
        same = source.files == source.originals and offsets == sorted(offsets)
        self._in_order = local and same
        self._hashes = [hashlib.sha256() for _ in source.files]
        self._done = [0] * len(source.files)

    def values(
        self,
        item: int,
        start: int,
        count: int,
        buffer: bytearray | None = None,
        busy: Busy | None = None,
    ) -> Array:
        """``count`` numbers of an item (and its neighbours), in ``buffer`` if it fits."""
        dtype = self.source.dtypes[item]
        size = count * ITEM_SIZES[dtype]
        if buffer is None or len(buffer) < size:
            buffer = bytearray(size)
        view = memoryview(buffer)[:size]
        self.read(item, start * ITEM_SIZES[dtype], view, busy)
        return unpacked(view, dtype)

    def read(self, item: int, start: int, view: memoryview, busy: Busy | None = None) -> None:
        """Fill ``view`` from byte ``start`` of an item on; ``busy`` gets what then reads it."""
        file, offset = int(self.source.file[item]), int(self.source.offset[item]) + start
        self._bytes.fill(file, offset, view)
        if busy is not None and self._lane is not None and self._in_order:
            busy.append(self._lane.submit(self._hash, file, offset, view))

    def digests(self) -> "Future[dict[str, str]] | None":
        """sha256 of each of the source's files by file name, None without a lane."""
        return self._lane.submit(self._digests) if self._lane is not None else None

    def _digests(self) -> dict[str, str]:
        paths = self.source.originals
        if not self._in_order:
            return self.source.digests()
        for file, path in enumerate(paths):
            self._hash(file, path.stat().st_size, memoryview(b""))
        return {path.name: made.hexdigest() for path, made in zip(paths, self._hashes, strict=True)}

    def _hash(self, file: int, offset: int, view: memoryview) -> None:
        """Hash what was read at ``offset``, and before it the bytes that nothing has read."""
        gap = memoryview(bytearray(min(_GAP_BYTES, max(0, offset - self._done[file]))))
        while self._done[file] < offset:
            skipped = gap[: offset - self._done[file]]
            self._bytes.fill(file, self._done[file], skipped)
            self._hashes[file].update(skipped)
            self._done[file] += len(skipped)
        self._hashes[file].update(view)
        self._done[file] += len(view)
