"""Read, merge, hash and write tensors through small buffers: no model is ever held in memory.

Tensors are processed in the order of the first member's file. Members whose files have the same
order (all that one training script wrote) are read front to back and hashed on the way.
Neighbouring tensors of one rule go through the buffers as one run.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.core.resources import core_count
from revt_hf.merging.checks import ValueChecks
from revt_hf.merging.dtypes import STORED, packed, unpacked
from revt_hf.merging.members import NOWHERE, Source
from revt_hf.merging.merge_plan import MergePlan, Run
from revt_hf.merging.registry import Array, find_method

_BUFFER_BYTES = 512 * 1024
_ALL_BUFFERS = 8 * 1024 * 1024
_SMALLEST = 8 * 1024
_SETS = 2
_SUMS = ("mean", "weighted_mean")


def opened(path: Path, stack: ExitStack) -> int:
    """The descriptor of a file that ``stack`` closes."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    stack.callback(os.close, descriptor)
    return descriptor


def read_at(descriptor: int, path: Path, offset: int, view: memoryview) -> None:
    """Fill ``view`` with a file's bytes from ``offset`` on."""
    while view:
        try:
            got = os.preadv(descriptor, [view], offset)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        if not got:
            raise UserError(f"{path} ended while it was read: is something writing to it?")
        view = view[got:]
        offset += got


class _Feed:
    """A source's files: reads ranges, and hashes every byte once and in order where it can."""

    def __init__(
        self, source: Source, hashing: bool, lane: ThreadPoolExecutor, stack: ExitStack
    ) -> None:
        self.source = source
        self._lane = lane
        self._files = [opened(path, stack) for path in source.files]
        offsets = list(zip(source.file.tolist(), source.offset.tolist(), strict=True))
        # A temporary file is not what the user gave: the original is hashed by itself.
        in_order = source.files == source.originals and offsets == sorted(offsets)
        self._hashing, self._on_the_way = hashing, hashing and in_order
        self._hashes = [hashlib.sha256() for _ in source.files]
        self._done = [0] * len(source.files)

    def read(self, item: int, start: int, view: memoryview) -> "list[Future[None]]":
        """Fill ``view`` with the bytes from ``start`` on of an item (and its neighbours).

        Returns:
            The hashing of these bytes in another thread, if any; they must stay until it ends.
        """
        file = int(self.source.file[item])
        offset = int(self.source.offset[item]) + start
        read_at(self._files[file], self.source.files[file], offset, view)
        return [self._lane.submit(self._hash, file, offset, view)] if self._on_the_way else []

    def digests(self) -> dict[str, str] | None:
        """sha256 of each of the source's files by file name, None if they are not wanted."""
        if not self._hashing:
            return None
        paths = self.source.originals
        if not self._on_the_way:
            return {path.name: file_sha256(path) for path in paths}
        for file, path in enumerate(paths):
            self._skip_to(file, path.stat().st_size)
        return {path.name: made.hexdigest() for path, made in zip(paths, self._hashes, strict=True)}

    def _hash(self, file: int, offset: int, view: memoryview) -> None:
        self._skip_to(file, offset)
        self._hashes[file].update(view)
        self._done[file] = offset + len(view)

    def _skip_to(self, file: int, offset: int) -> None:
        """Hash the bytes up to ``offset`` that nothing has read."""
        buffer = memoryview(bytearray(min(_BUFFER_BYTES, max(0, offset - self._done[file]))))
        while self._done[file] < offset:
            view = buffer[: offset - self._done[file]]
            read_at(self._files[file], self.source.files[file], self._done[file], view)
            self._hashes[file].update(view)
            self._done[file] += len(view)


def stream(
    plan: MergePlan,
    output: BinaryIO,
    hashing: bool,
    allow_nonfinite: bool,
    on_bytes: Callable[[int], object],
    own_hash: "hashlib._Hash | None" = None,
) -> list[dict[str, str] | None]:
    """Write the data of the plan's items to ``output``, in order and without gaps.

    ``on_bytes`` is called with the number of bytes written, ``own_hash`` updated with them.

    Returns:
        For each member, then the base if there is one: with ``hashing``, sha256 by file name.

    Raises:
        UserError: a source cannot be read to its end or holds NaN or infinity, or the result's
            dtype cannot hold it.
    """
    # The threads end before the files that they read are closed.
    with ExitStack() as open_files, ExitStack() as threads:
        # A source's bytes are hashed in order, so each source keeps to one thread.
        lanes = [
            threads.enter_context(ThreadPoolExecutor(1))
            for _ in range(min(len(plan.inputs), core_count()))
        ]
        lane_of = [lanes[at % len(lanes)] for at in range(len(plan.inputs))]
        feeds = [
            _Feed(source, hashing, lane, open_files)
            for source, lane in zip(plan.inputs, lane_of, strict=True)
        ]
        own_lane = threads.enter_context(ThreadPoolExecutor(1))
        engine = _Engine(plan, feeds, allow_nonfinite)
        for run in plan.runs():
            for piece in engine.pieces(run):
                if own_hash is not None:
                    engine.busy.append(own_lane.submit(own_hash.update, piece))
                output.write(piece)
                on_bytes(len(piece))
        rest = [lane.submit(feed.digests) for feed, lane in zip(feeds, lane_of, strict=True)]
        return [future.result() for future in rest]


class _Engine:
    """Turns runs into the bytes of the result."""

    def __init__(self, plan: MergePlan, feeds: Sequence[_Feed], allow_nonfinite: bool) -> None:
        self._plan, self._feeds = plan, feeds
        self._checks = ValueChecks(plan, allow_nonfinite)
        share = _ALL_BUFFERS // (_SETS * len(feeds))
        self._buffer_bytes = max(_SMALLEST, min(_BUFFER_BYTES, share))
        # A buffer for each source, and the hashing that still reads them: one set is summed and
        # hashed while the next one is filled.
        self._sets: deque[tuple[list[bytearray], list[Future[None]]]] = deque(
            ([bytearray(self._buffer_bytes) for _ in feeds], []) for _ in range(_SETS)
        )

    @property
    def busy(self) -> "list[Future[None]]":
        """What still reads the last piece."""
        return self._sets[0][1]

    def pieces(self, run: Run) -> Iterator[memoryview]:
        """The run's bytes in pieces; each is valid until the next one is requested."""
        if run.rule is None:
            yield from self._copied(run)
            return
        rule, item = self._plan.spec.rules[run.rule], self._plan.items[run.first]
        method, members = find_method(rule.method), len(self._plan.sources)
        feeds = self._feeds if method.needs_base else self._feeds[:members]
        whole, summed = method.scope == "tensor", rule.method in _SUMS
        dtypes = {item.dtype, *(feed.source.dtypes[run.first] for feed in feeds)}
        fitting = self._buffer_bytes // max(ITEM_SIZES[dtype] for dtype in dtypes)
        step = max(1, run.count if whole else fitting)
        for start in range(0, run.count, step):
            arrays = self._read(run, start, min(step, run.count - start), feeds)
            # A non-finite member makes the sum non-finite: one check is enough then.
            if not summed:
                self._checks.members(run, start, arrays)
            if whole:
                arrays = [array.reshape(item.shape) for array in arrays]
            base = arrays[members] if method.needs_base else None
            merged = method.combine(
                arrays[:members], rule.weights, base, rule.parameters, salt=item.name
            )
            if summed and not self._checks.is_finite(merged):
                self._checks.members(run, start, arrays)
            self._checks.values(run, start, merged, "the merge")
            content = packed(merged, item.dtype)
            if merged.dtype != STORED[item.dtype]:
                self._checks.overflow(run, start, merged, unpacked(content, item.dtype))
            yield content

    def _copied(self, run: Run) -> Iterator[memoryview]:
        feed = self._feeds[self._plan.spec.head - 1]
        dtype = self._plan.items[run.first].dtype
        size = ITEM_SIZES[dtype]
        if feed.source.offset[run.first] == NOWHERE:
            yield memoryview(bytes(run.count * size))
            return
        step = max(1, self._buffer_bytes // size)
        for start in range(0, run.count, step):
            (buffer, *_), busy = self._next_set()
            view = memoryview(buffer)[: min(step, run.count - start) * size]
            busy += feed.read(run.first, start * size, view)
            if dtype in FLOATS:
                self._checks.values(run, start, unpacked(view, dtype), feed.source.label)
            yield view

    def _read(self, run: Run, start: int, count: int, feeds: Sequence[_Feed]) -> list[Array]:
        """``count`` values of every feed from ``start`` on, as float32 or float64."""
        item = self._plan.items[run.first]
        wide = np.float64 if item.dtype == "F64" else np.float32
        buffers, busy = self._next_set()
        arrays = []
        for feed, buffer in zip(feeds, buffers, strict=False):
            dtype = feed.source.dtypes[run.first]
            size = count * ITEM_SIZES[dtype]
            view = memoryview(buffer if size <= len(buffer) else bytearray(size))[:size]
            busy += feed.read(run.first, start * ITEM_SIZES[dtype], view)
            array = unpacked(view, dtype)
            arrays.append(array.astype(np.result_type(array, wide), copy=False))
        return arrays

    def _next_set(self) -> "tuple[list[bytearray], list[Future[None]]]":
        """Buffers that nothing reads any more."""
        self._sets.rotate()
        for future in self.busy:
            future.result()
        self.busy.clear()
        return self._sets[0]
