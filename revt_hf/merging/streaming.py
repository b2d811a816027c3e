"""Read, merge, hash and write tensors through small buffers: no model is ever held in memory.

Tensors come in the order of the first member's file. Members whose files have the same order are
read front to back and hashed on the way; neighbouring tensors of one rule are read as one run.
"""

import hashlib
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np

from revt_hf.checkpoints.families import is_statistic, is_variance, mean_beside
from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.core.errors import UserError
from revt_hf.core.resources import core_count
from revt_hf.merging.feeds import STORED, Busy, Feed, unpacked
from revt_hf.merging.members import NOWHERE
from revt_hf.merging.merge_plan import MergePlan, Run
from revt_hf.merging.registry import Array, find_method

_BUFFER_BYTES = 512 * 1024
_ALL_BUFFERS = 8 * 1024 * 1024
_SMALLEST = 8 * 1024
_SETS = 2
_SUMS = ("mean", "weighted_mean")


def _packed(values: Array, dtype: str) -> memoryview:
    """Values as the file's bytes; bfloat16 is rounded to nearest even."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        # Rounding would turn some NaN into infinity.
        values = np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=STORED[dtype]).data.cast("B")


def stream(
    plan: MergePlan,
    output: BinaryIO,
    own_hash: "hashlib._Hash | None",
    allow_nonfinite: bool,
    on_bytes: Callable[[int], object],
) -> list[dict[str, str] | None]:
    """Write the data of the plan's items to ``output``, and count them with ``on_bytes``.

    Returned are each input's digests, if there is an ``own_hash`` for the written bytes. Refused
    are sources that end early or hold NaN or infinity, and results beyond the dtype.
    """
    # The threads end before the files that they read are closed.
    with ExitStack() as open_files, ExitStack() as threads:
        # A source's bytes are hashed in order, so each source keeps to one thread.
        wanted = min(len(plan.inputs), core_count()) if own_hash is not None else 0
        lanes = [threads.enter_context(ThreadPoolExecutor(1)) for _ in range(wanted)]
        feeds = [
            Feed(source, open_files, lanes[at % wanted] if lanes else None, plan.places(source))
            for at, source in enumerate(plan.inputs)
        ]
        own_lane = threads.enter_context(ThreadPoolExecutor(1))
        engine = _Engine(plan, feeds, allow_nonfinite)
        for run in plan.runs():
            for piece in engine.pieces(run):
                if own_hash is not None:
                    engine.busy.append(own_lane.submit(own_hash.update, piece))
                output.write(piece)
                on_bytes(len(piece))
        rest = [feed.digests() for feed in feeds]
        return [future.result() if future else None for future in rest]


class _Engine:
    """Turns runs into the bytes of the result, and refuses numbers that must not be in them."""

    def __init__(self, plan: MergePlan, feeds: Sequence[Feed], allow_nonfinite: bool) -> None:
        self._plan, self._feeds, self._allow_nonfinite = plan, feeds, allow_nonfinite
        self._names = [item.name for item in plan.items]
        self._means_kept: dict[tuple[int, int], list[Array]] = {}
        self._variances = [at for at, name in enumerate(self._names) if is_variance(name)]
        share = _ALL_BUFFERS // (_SETS * len(feeds))
        self._buffer_bytes = max(_SMALLEST, min(_BUFFER_BYTES, share))
        # A buffer for each source, and the hashing that still reads them: one set is summed and
        # hashed while the next one is filled.
        self._sets: deque[tuple[list[bytearray], Busy]] = deque(
            ([bytearray(self._buffer_bytes) for _ in feeds], []) for _ in range(_SETS)
        )

    @property
    def busy(self) -> Busy:
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
        wide = np.float64 if item.dtype == "F64" else np.float32
        dtypes = {item.dtype, *(feed.source.dtypes[run.first] for feed in feeds)}
        fitting = self._buffer_bytes // max(ITEM_SIZES[dtype] for dtype in dtypes)
        step = max(1, run.count if whole else fitting)
        for start in range(0, run.count, step):
            count, (buffers, busy) = min(step, run.count - start), self._next_set()
            read = [
                feed.values(run.first, start, count, buffer, busy)
                for feed, buffer in zip(feeds, buffers, strict=False)
            ]
            if method.needs_means:
                self._keep_means(run, start, read[:members])
            arrays = [array.astype(np.result_type(array, wide), copy=False) for array in read]
            # A non-finite member makes the sum non-finite: one check is enough then.
            if not summed:
                self._check_inputs(run, start, arrays)
            if whole:
                arrays = [array.reshape(item.shape) for array in arrays]
            base = arrays[members] if method.needs_base else None
            means = self._means(run, start, count) if method.needs_means else None
            merged = method.combine(
                arrays[:members], item.weights, base, rule.parameters, item.name, means
            )
            if summed and not self._is_finite(merged):
                self._check_inputs(run, start, arrays)
            self._check(run, start, merged, "the merge")
            content = _packed(merged, item.dtype)
            if merged.dtype != STORED[item.dtype]:
                self._check_overflow(run, start, merged, unpacked(content, item.dtype))
            yield content

    def _means(self, run: Run, start: int, count: int) -> list[Array] | None:
        """The members' running means beside a running variance; None for any other tensor."""
        if (name := mean_beside(self._names[run.first])) is None:
            return None
        at = self._names.index(name)
        kept = self._means_kept.pop((at, start), None)
        sources = self._feeds[: len(self._plan.sources)]
        return kept or [feed.values(at, start, count) for feed in sources]

    def _keep_means(self, run: Run, start: int, arrays: Sequence[Array]) -> None:
        """Keep running means for the variances after them: from the Hub they are read once."""
        name, after = (
            self._names[run.first],
            self._variances[bisect_left(self._variances, run.first) :],
        )
        if is_statistic(name) and name in [mean_beside(self._names[at]) for at in after]:
            self._means_kept[run.first, start] = [array.copy() for array in arrays]

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
            feed.read(run.first, start * size, view, busy)
            if dtype in FLOATS:
                self._check(run, start, unpacked(view, dtype), feed.source.label)
            yield view

    def _next_set(self) -> tuple[list[bytearray], Busy]:
        """Buffers that nothing reads any more."""
        self._sets.rotate()
        for future in self.busy:
            future.result()
        self.busy.clear()
        return self._sets[0]

    def _is_finite(self, array: Array) -> bool:
        # The sum is finite if all values are, but for overflow; it needs no second array.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._allow_nonfinite or math.isfinite(float(array.sum()))

    def _check_inputs(self, run: Run, start: int, arrays: Sequence[Array]) -> None:
        for source, array in zip(self._plan.inputs, arrays, strict=False):
            self._check(run, start, array, source.label)

    def _check(self, run: Run, start: int, array: Array, label: str) -> None:
        """Refuse NaN and infinity, and variances below 0, which give NaN in the network."""
        if not self._is_finite(array):
            broken = np.flatnonzero(~np.isfinite(array.reshape(-1)))
            if broken.size:
                raise UserError(
                    f"{label}: the tensor {self._name(run, start + int(broken[0]))} holds NaN or "
                    "infinity: train it again, or pass --allow-nonfinite"
                )
        values, items = array.reshape(-1), self._plan.items
        first, last = (bisect_left(self._variances, at) for at in (run.first, run.last))
        for variance in map(items.__getitem__, self._variances[first:last]):
            # Items of one dtype lie side by side in the result.
            begins = (variance.offset - items[run.first].offset) // ITEM_SIZES[variance.dtype]
            begin, end = (max(0, at - start) for at in (begins, begins + variance.count))
            if (values[begin:end] < 0).any():
                raise UserError(
                    f"{label}: the variance {variance.name} holds a negative number: select the "
                    "backbone alone, or use another method"
                )

    def _check_overflow(self, run: Run, start: int, merged: Array, held: Array) -> None:
        """Refuse results that became infinite in the narrower dtype of the file."""
        values = merged.reshape(-1)
        broken = np.flatnonzero(np.isfinite(values) & ~np.isfinite(held))
        if broken.size:
            at = int(broken[0])
            raise UserError(
                f"the merge: the tensor {self._name(run, start + at)} holds {values[at]:g}, which "
                f"{FLOATS[self._plan.items[run.first].dtype]} cannot hold: take the head (--head) "
                "of a member in float32"
            )

    def _name(self, run: Run, position: int) -> str:
        ends = np.cumsum([item.count for item in self._plan.items[run.first : run.last]])
        return self._plan.items[run.first + int(np.searchsorted(ends, position, "right"))].name
