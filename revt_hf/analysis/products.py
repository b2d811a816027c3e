"""Scalar products of weights read through small buffers; no torch."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.core.errors import UserError
from revt_hf.merging.feeds import Feed
from revt_hf.merging.merge_plan import MergePlan, Run

_BUFFER_BYTES = 2 * 1024 * 1024
# Short enough for the processor's cache.
_PIECE = 32768
# Short enough for BLAS not to start threads of its own.
_DOT = 8192


class Products:
    """Scalar products of every floating-point tensor of a merge plan.

    The vectors are a reference (the base, else the first member) and the differences of the members
    from it: exact in float64, so nothing cancels between members that are close to each other.
    """

    def __init__(
        self, plan: MergePlan, stack: ExitStack, on_bytes: Callable[[int], object]
    ) -> None:
        self._plan, self._members = plan, len(plan.sources)
        self._feeds = [Feed(source, stack) for source in plan.inputs]
        self._buffers = [bytearray(_BUFFER_BYTES) for _ in plan.inputs]
        self._rows = np.zeros((self._members + 1, _PIECE))
        self._products = np.zeros((len(plan.items), self._members + 1, self._members + 1))
        # In one thread: with more, numpy's short calls wait for each other.
        for run in plan.runs():
            if plan.items[run.first].dtype in FLOATS:
                widest = max(ITEM_SIZES[source.dtypes[run.first]] for source in plan.inputs)
                step = _BUFFER_BYTES // widest
                for start in range(0, run.count, step):
                    on_bytes(self._add(run, start, min(step, run.count - start)))
        self._check_finite()

    def norms(self, group: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """|x_i|^2 of members and the products of their differences, over a group of tensors."""
        products = self._products[group].sum(0)
        between = products[1:, 1:]
        return products[0, 0] + 2 * products[0, 1:] + between.diagonal(), between

    def _add(self, run: Run, start: int, count: int) -> int:
        """Add the products of ``count`` numbers of a run; the number of bytes read."""
        # The base comes last; only rules need it.
        feeds = self._feeds if run.rule is not None else self._feeds[: self._members]
        arrays = [
            feed.values(run.first, start, count, buffer)
            for feed, buffer in zip(feeds, self._buffers, strict=False)
        ]
        ends = np.cumsum([item.count for item in self._plan.items[run.first : run.last]])
        low, end = start, start + count
        for index in range(int(np.searchsorted(ends, low, side="right")), len(ends)):
            high = min(int(ends[index]), end)
            if high > low:
                parts = [array[low - start : high - start] for array in arrays]
                self._products[run.first + index] += self._multiplied(parts)
            low = high
            if low == end:
                break
        return sum(array.nbytes for array in arrays)

    def _multiplied(self, arrays: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        has_base = len(arrays) > self._members
        # Row i + 1 is member i; without a base, the first member does not differ from itself.
        first = 0 if has_base else 1
        used = [0, *range(first + 1, self._members + 1)]
        products = np.zeros((self._members + 1, self._members + 1))
        for start in range(0, len(arrays[0]), _PIECE):
            part = slice(start, start + _PIECE)
            reference = arrays[-1 if has_base else 0][part]
            piece = self._rows[:, : len(reference)]
            np.copyto(piece[0], reference)
            for member in range(first, self._members):
                np.copyto(piece[member + 1], arrays[member][part])
                np.subtract(piece[member + 1], piece[0], out=piece[member + 1])
            for at, i in enumerate(used):
                for j in used[at:]:
                    products[i, j] += _dot(piece[i], piece[j])
        return products

    def _check_finite(self) -> None:
        broken = ~np.isfinite(self._products)
        if not broken.any():
            return
        index = int(np.flatnonzero(broken.any((1, 2)))[0])
        # NaN in the reference breaks all rows, in a member only its own.
        row = 0 if broken[index, 0, 0] else int(np.flatnonzero(broken[index].diagonal())[0])
        culprit = self._plan.sources[row - 1] if row else self._plan.base or self._plan.sources[0]
        raise UserError(
            f"{culprit.label}: the tensor {self._plan.items[index].name} "
            "holds NaN or infinity: there is no distance to it"
        )


def _dot(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    whole = len(first) - len(first) % _DOT
    total = float(first[whole:].dot(second[whole:]))
    if whole:
        total += float(
            np.vecdot(first[:whole].reshape(-1, _DOT), second[:whole].reshape(-1, _DOT)).sum()
        )
    return total
