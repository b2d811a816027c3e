"""Scalar products of members' weights, tensor by tensor, through small buffers.

Nothing here imports torch.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.analysis.parts import Group
from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.core.errors import UserError
from revt_hf.merging.dtypes import unpacked
from revt_hf.merging.members import Source
from revt_hf.merging.merge_plan import MergePlan, Run
from revt_hf.merging.streaming import opened, read_at

_BUFFER_BYTES = 2 * 1024 * 1024
# Short enough for the processor's cache.
_PIECE = 32768
# Short enough for BLAS not to start threads of its own.
_DOT = 8192


@dataclass(frozen=True)
class _Span:
    """``count`` numbers from ``start`` on of a run, the same of every source."""

    run: Run
    start: int
    count: int


@dataclass(frozen=True, eq=False)
class Partial:
    """What a span adds to the products of its tensors.

    Attributes:
        nbytes: how much was read for it.
        products: places in the plan, with (members + 1, members + 1) float64 each.
    """

    nbytes: int
    products: list[tuple[int, NDArray[np.float64]]]


class Reader:
    """Reads all sources piece by piece and multiplies them.

    Products are of the reference (the base, else the first member) and of what the members differ
    from it by. Differences are exact in float64, so that nothing cancels where members are near
    each other.
    """

    def __init__(self, plan: MergePlan, stack: ExitStack) -> None:
        self._plan = plan
        self._members = len(plan.sources)
        self._sources = plan.inputs
        self._files = [[opened(path, stack) for path in source.files] for source in self._sources]
        self._buffers = [bytearray(_BUFFER_BYTES) for _ in self._sources]
        self._rows = np.zeros((self._members + 1, _PIECE))

    def partials(self) -> Iterator[Partial]:
        """Of all tensors of numbers with a fraction."""
        # One thread: with more, numpy's short calls wait for each other.
        return map(self._partial, self._spans())

    def _spans(self) -> Iterator[_Span]:
        for run in self._plan.runs():
            if self._plan.items[run.first].dtype in FLOATS:
                widest = max(ITEM_SIZES[self._dtype(source, run)] for source in self._sources)
                step = _BUFFER_BYTES // widest
                for start in range(0, run.count, step):
                    yield _Span(run, start, min(step, run.count - start))

    def _dtype(self, source: Source, run: Run) -> str:
        return source.dtypes.get(run.first, self._plan.items[run.first].dtype)

    def _partial(self, span: _Span) -> Partial:
        arrays = self._read(span)
        products = []
        items = self._plan.items[span.run.first : span.run.last]
        ends = np.cumsum([item.count for item in items])
        low, end = span.start, span.start + span.count
        for place in range(int(np.searchsorted(ends, low, side="right")), len(items)):
            high = min(int(ends[place]), end)
            if high > low:
                parts = [array[low - span.start : high - span.start] for array in arrays]
                products.append((span.run.first + place, self._multiplied(parts)))
            low = high
            if low == end:
                break
        return Partial(sum(array.nbytes for array in arrays), products)

    def _read(self, span: _Span) -> list[NDArray[Any]]:
        """Of every source, the base last."""
        arrays, first = [], span.run.first
        # The base has no part in what the rule does not select.
        wanted = len(self._sources) if span.run.rule is not None else self._members
        for source, files, buffer in zip(
            self._sources[:wanted], self._files, self._buffers, strict=False
        ):
            dtype = self._dtype(source, span.run)
            view = memoryview(buffer)[: span.count * ITEM_SIZES[dtype]]
            number = int(source.file[first])
            offset = int(source.offset[first]) + span.start * ITEM_SIZES[dtype]
            read_at(files[number], source.files[number], offset, view)
            arrays.append(unpacked(view, dtype))
        return arrays

    def _multiplied(self, arrays: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        based = len(arrays) > self._members
        # Row i + 1 is member i; without a base the first one does not differ from itself.
        first = 0 if based else 1
        used = [0, *range(first + 1, self._members + 1)]
        products = np.zeros((self._members + 1, self._members + 1))
        for start in range(0, len(arrays[0]), _PIECE):
            part = slice(start, start + _PIECE)
            reference = arrays[-1 if based else 0][part]
            piece = self._rows[:, : len(reference)]
            np.copyto(piece[0], reference)
            for member in range(first, self._members):
                np.copyto(piece[member + 1], arrays[member][part])
                np.subtract(piece[member + 1], piece[0], out=piece[member + 1])
            for at, i in enumerate(used):
                for j in used[at:]:
                    products[i, j] += _dot(piece[i], piece[j])
        return products


def _dot(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    whole = len(first) - len(first) % _DOT
    total = float(first[whole:].dot(second[whole:]))
    if whole:
        total += float(
            np.vecdot(first[:whole].reshape(-1, _DOT), second[:whole].reshape(-1, _DOT)).sum()
        )
    return total


class Products:
    """Scalar products of every tensor of the plan; see :class:`Reader`."""

    def __init__(self, plan: MergePlan) -> None:
        self._plan = plan
        rows = len(plan.sources) + 1
        self._products = np.zeros((len(plan.items), rows, rows))

    def add(self, partial: Partial) -> None:
        """Take in what a span adds."""
        for place, products in partial.products:
            self._products[place] += products

    def check_finite(self) -> None:
        """Refuse NaN and infinity.

        Raises:
            UserError: a member holds one.
        """
        broken = ~np.isfinite(self._products)
        if not broken.any():
            return
        place = int(np.flatnonzero(broken.any((1, 2)))[0])
        labels = [source.label for source in self._plan.sources]
        # The reference's breaks all rows, a member's its own.
        row = 0 if broken[place, 0, 0] else int(np.flatnonzero(broken[place].diagonal())[0])
        reference = self._plan.base.label if self._plan.base else labels[0]
        raise UserError(
            f"{labels[row - 1] if row else reference}: the tensor {self._plan.items[place].name} "
            "holds NaN or infinity: there is no distance to it"
        )

    def norms(self, places: Group) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Over some tensors together: each member's squared norm, and of its difference.

        Returns:
            |x_i|^2 (members), and (members, members) products of what members i and j differ from
            the reference by.
        """
        products = self._products[places].sum(0)
        between = products[1:, 1:]
        return products[0, 0] + 2 * products[0, 1:] + between.diagonal(), between
