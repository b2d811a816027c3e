"""Merge files of any size through small buffers: no model is ever held in memory.

Tensors are taken in the order of the first member's file. Members whose files have the same order
(all that one training script wrote) are read front to back, and hashed on the way. Neighbours
that are treated alike go through the buffers as one run.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from revt_hf.checkpoints.architecture import VARIANCE
from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.core.errors import UserError
from revt_hf.core.resources import core_count
from revt_hf.merging.dtypes import STORED, WIDE, packed, unpacked
from revt_hf.merging.feeds import Feed
from revt_hf.merging.methods import METHODS, checked_parameters
from revt_hf.merging.plan import Plan
from revt_hf.merging.sources import NOWHERE, Source

_BUFFER_BYTES = 512 * 1024
_ALL_BUFFERS = 8 * 1024 * 1024
_SMALLEST = 8 * 1024
_SETS = 2
_SUMS = ("mean", "weighted_mean")


@dataclass(frozen=True)
class Run:
    """Items ``first`` to ``last`` (exclusive): neighbours in every file, treated alike."""

    first: int
    last: int
    rule: int | None
    count: int


def stream(
    plan: Plan,
    output: BinaryIO,
    hashing: bool,
    allow_nonfinite: bool,
    on_bytes: Callable[[int], object],
    own_hash: "hashlib._Hash | None" = None,
) -> list[dict[str, str] | None]:
    """Write the data of the plan's items to ``output``, in order and without gaps.

    Args:
        plan: what to do.
        output: an open file, at the place where the data start.
        hashing: also hash the sources' files.
        allow_nonfinite: take NaN and infinity as they come.
        on_bytes: called with the number of bytes written, for a progress bar.
        own_hash: is given every byte that is written.

    Returns:
        For each member, then the base if there is one: sha256 by file name, or None.

    Raises:
        UserError: a source that cannot be read to its end, or holds NaN or infinity; a result
            that its dtype cannot hold.
    """
    sources = [*plan.sources, *([plan.base] if plan.base else [])]
    # The threads end before the files close that they read.
    with ExitStack() as open_files, ExitStack() as threads:
        # A source's bytes are hashed in order, so each source has its lane of one thread.
        lanes = [
            threads.enter_context(ThreadPoolExecutor(1))
            for _ in range(min(len(sources), core_count()))
        ]
        feeds = [
            Feed(source, hashing, lanes[at % len(lanes)], open_files)
            for at, source in enumerate(sources)
        ]
        own_lane = threads.enter_context(ThreadPoolExecutor(1))
        engine = _Engine(plan, feeds, allow_nonfinite)
        for run in runs(plan):
            for piece in engine.pieces(run):
                if own_hash is not None:
                    engine.hold(own_lane.submit(own_hash.update, piece))
                output.write(piece)
                on_bytes(len(piece))
        rest = [lanes[at % len(lanes)].submit(feed.digests) for at, feed in enumerate(feeds)]
        return [future.result() for future in rest]


def runs(plan: Plan) -> Iterator[Run]:
    """The plan's items as runs, in order."""
    sources = [*plan.sources, *([plan.base] if plan.base else [])]
    first = 0
    while first < len(plan.items):
        start = plan.items[first]
        last, count = first + 1, start.count
        while last < len(plan.items) and _continues(plan, sources, last):
            count += plan.items[last].count
            last += 1
        yield Run(first, last, start.rule, count)
        first = last


def _continues(plan: Plan, sources: Sequence[Source], at: int) -> bool:
    """Whether an item belongs to the run of the one before it."""
    before, item = plan.items[at - 1], plan.items[at]
    if (before.rule, before.dtype) != (item.rule, item.dtype):
        return False
    if item.rule is not None and METHODS[plan.spec.rules[item.rule].method].scope == "tensor":
        return False
    size = before.count * ITEM_SIZES[item.dtype]
    return all(
        not source.dtypes
        and source.file[at] == source.file[at - 1]
        and source.offset[at] == source.offset[at - 1] + size
        for source in sources
        if source.offset[at - 1] >= 0 or source.offset[at] >= 0
    )


@dataclass
class _Set:
    """A buffer for each source, and the hashing that still reads them."""

    bytes: list[bytearray]
    busy: "list[Future[None] | None]" = field(default_factory=list)


class _Engine:
    """Turns runs into the bytes of the result."""

    def __init__(self, plan: Plan, feeds: Sequence[Feed], allow_nonfinite: bool) -> None:
        self._plan = plan
        self._feeds = feeds
        self._allow_nonfinite = allow_nonfinite
        names = [item.name for item in plan.items]
        self._variance = names.index(VARIANCE) if VARIANCE in names else NOWHERE
        share = _ALL_BUFFERS // (_SETS * len(feeds))
        self._buffer_bytes = max(_SMALLEST, min(_BUFFER_BYTES, share))
        # One set is summed and hashed while the next one is filled.
        self._sets = deque(
            _Set([bytearray(self._buffer_bytes) for _ in feeds]) for _ in range(_SETS)
        )

    def hold(self, future: "Future[None]") -> None:
        """Keep the last piece, which would be void when the next one is asked for."""
        self._sets[0].busy.append(future)

    def pieces(self, run: Run) -> Iterator[memoryview]:
        """The run's bytes, a piece at a time; each is void when the next one is asked for."""
        if run.rule is None:
            yield from self._copied(run)
            return
        rule = self._plan.spec.rules[run.rule]
        method = METHODS[rule.method]
        parameters: dict[str, Any] = dict(checked_parameters(method, rule.parameters))
        if method.stochastic:
            parameters["salt"] = self._plan.items[run.first].name
        weights = np.array(rule.weights, dtype=np.float64) if rule.weights else None
        whole = method.scope == "tensor"
        shape = self._plan.items[run.first].shape if whole else None
        members = len(self._plan.sources)
        dtype = self._plan.items[run.first].dtype
        widest = max(ITEM_SIZES[kind] for kind in self._dtypes(run))
        step = run.count if whole else self._buffer_bytes // widest
        for start in range(0, run.count, max(1, step)):
            count = min(step, run.count - start)
            needed = len(self._feeds) if method.needs_base else members
            # What is not finite in a member is not finite in a sum: one look is enough then.
            carried = rule.method in _SUMS
            arrays = self._floats(run, start, count, needed, check=not carried)
            if shape is not None:
                arrays = [array.reshape(shape) for array in arrays]
            base = arrays[members] if method.needs_base else None
            merged = method.function(arrays[:members], weights, base, **parameters)
            if carried and not self._is_fine(merged):
                for feed, array in zip(self._feeds, arrays, strict=False):
                    self._check(run, start, array, feed.source.label)
            self._check(run, start, merged, "the merge")
            content = packed(merged, dtype)
            if merged.dtype != STORED[dtype]:
                self._check_held(run, start, merged, unpacked(content, dtype))
            yield content

    def _copied(self, run: Run) -> Iterator[memoryview]:
        feed = self._feeds[self._plan.spec.head - 1]
        dtype = self._plan.items[run.first].dtype
        size = ITEM_SIZES[dtype]
        if feed.source.offset[run.first] == NOWHERE:
            yield memoryview(bytes(run.count * size))
            return
        step = self._buffer_bytes // size
        for start in range(0, run.count, max(1, step)):
            count = min(step, run.count - start)
            buffers = self._next_set()
            view = memoryview(buffers.bytes[0])[: count * size]
            buffers.busy.append(feed.read(run.first, start * size, view))
            if dtype in FLOATS:
                self._check(run, start, unpacked(view, dtype), feed.source.label)
            yield view

    def _floats(
        self, run: Run, start: int, count: int, needed: int, check: bool
    ) -> list[NDArray[np.floating[Any]]]:
        """``count`` values of every source from ``start`` on, as float32 or float64."""
        first_dtype = self._plan.items[run.first].dtype
        buffers = self._next_set()
        arrays = []
        for number in range(needed):
            feed = self._feeds[number]
            dtype = feed.source.dtypes.get(run.first, first_dtype)
            size = count * ITEM_SIZES[dtype]
            buffer = buffers.bytes[number]
            view = memoryview(buffer if size <= len(buffer) else bytearray(size))[:size]
            buffers.busy.append(feed.read(run.first, start * ITEM_SIZES[dtype], view))
            array = unpacked(view, dtype)
            if check:
                self._check(run, start, array, feed.source.label)
            arrays.append(array.astype(np.result_type(array, WIDE[first_dtype]), copy=False))
        return arrays

    def _next_set(self) -> "_Set":
        """Buffers that nobody reads any more."""
        self._sets.rotate()
        buffers = self._sets[0]
        for future in buffers.busy:
            if future is not None:
                future.result()
        buffers.busy.clear()
        return buffers

    def _dtypes(self, run: Run) -> set[str]:
        own = self._plan.items[run.first].dtype
        return {own, *(feed.source.dtypes.get(run.first, own) for feed in self._feeds)}

    def _is_fine(self, array: NDArray[Any]) -> bool:
        # The sum is finite if all values are, but for overflow; it needs no second array.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._allow_nonfinite or math.isfinite(float(array.sum()))

    def _check(self, run: Run, start: int, array: NDArray[Any], label: str) -> None:
        """Refuse NaN and infinity, and variances below 0, which give NaN in the network."""
        if not self._is_fine(array):
            broken = np.flatnonzero(~np.isfinite(array.reshape(-1)))
            if broken.size:
                raise UserError(
                    f"{label}: the tensor {self._name(run, start + int(broken[0]))} holds NaN or "
                    "infinity: train it again, or pass --allow-nonfinite"
                )
        if run.first <= self._variance < run.last:
            for at in np.flatnonzero(array.reshape(-1) < 0):
                if self._name(run, start + int(at)) == VARIANCE:
                    raise UserError(
                        f"{label}: the variance {VARIANCE} holds a negative number: select the "
                        "backbone alone, or use another method"
                    )

    def _check_held(self, run: Run, start: int, merged: NDArray[Any], held: NDArray[Any]) -> None:
        """Refuse what has become infinite because the file's dtype does not reach so far."""
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(float(held.sum())):
                return
        values = merged.reshape(-1)
        broken = np.flatnonzero(np.isfinite(values) & ~np.isfinite(held))
        if broken.size:
            place = int(broken[0])
            raise UserError(
                f"the merge: the tensor {self._name(run, start + place)} holds {values[place]:g}, "
                f"which {FLOATS[self._plan.items[run.first].dtype]} cannot hold: take the head "
                "(--head) of a member in float32"
            )

    def _name(self, run: Run, place: int) -> str:
        """The tensor that the value at a place of the run belongs to."""
        for item in self._plan.items[run.first : run.last]:
            if place < item.count:
                return item.name
            place -= item.count
        raise IndexError(place)
