"""Scalar products of members' weights, tensor by tensor, through small buffers.

Nothing here imports torch.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.checkpoints.headers import ITEM_SIZES
from revt_hf.diagnosing.parts import Group
from revt_hf.errors import UserError
from revt_hf.merging.feeds import opened, read_at
from revt_hf.merging.plan import FLOATS, Plan, Source
from revt_hf.merging.streaming import Run, runs, unpacked

_BUFFER_BYTES = 512 * 1024
# Short enough for the processor's cache, and for BLAS not to start threads.
_PIECE = 8192


@dataclass(frozen=True, eq=False)
class Piece:
    """Numbers from ``start`` on of a run, the same of every source, the base last."""

    run: Run
    start: int
    arrays: list[NDArray[Any]]


class Reader:
    """Reads pieces of all sources, one piece ahead of who works on them."""

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        self._plan = plan
        self._sources = [*plan.sources, *([plan.base] if plan.base else [])]
        self._files = [[opened(path, stack) for path in source.files] for source in self._sources]
        self._buffers = [[bytearray(_BUFFER_BYTES) for _ in self._sources] for _ in range(2)]

    def pieces(self) -> Iterator[Piece]:
        """All pieces of all tensors of numbers with a fraction; each is void at the next one."""
        # The thread ends before the files close that it reads.
        with ThreadPoolExecutor(1) as thread:
            coming = None
            for number, span in enumerate(self._spans()):
                following = thread.submit(self._read, self._buffers[number % 2], *span)
                if coming is not None:
                    yield coming.result()
                coming = following
            if coming is not None:
                yield coming.result()

    def _spans(self) -> Iterator[tuple[Run, int, int]]:
        for run in runs(self._plan):
            if self._plan.items[run.first].dtype in FLOATS:
                widest = max(ITEM_SIZES[self._dtype(source, run)] for source in self._sources)
                step = _BUFFER_BYTES // widest
                for start in range(0, run.count, step):
                    yield run, start, min(step, run.count - start)

    def _dtype(self, source: Source, run: Run) -> str:
        return source.dtypes.get(run.first, self._plan.items[run.first].dtype)

    def _read(self, buffers: Sequence[bytearray], run: Run, start: int, count: int) -> Piece:
        arrays = []
        # The base has no part in what the rule does not select.
        wanted = len(self._sources) if run.rule is not None else len(self._plan.sources)
        for source, files, buffer in zip(
            self._sources[:wanted], self._files, buffers, strict=False
        ):
            dtype = self._dtype(source, run)
            view = memoryview(buffer)[: count * ITEM_SIZES[dtype]]
            number = int(source.file[run.first])
            offset = int(source.offset[run.first]) + start * ITEM_SIZES[dtype]
            read_at(files[number], source.files[number], offset, view)
            arrays.append(unpacked(view, dtype))
        return Piece(run, start, arrays)


class Products:
    """Scalar products of every tensor of the plan.

    Of the reference (the base, else the first member) and of what the members differ from it by.
    Differences are exact in float64, so that nothing cancels where members are near each other.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._members = len(plan.sources)
        rows = self._members + 1
        self._products = np.zeros((len(plan.items), rows, rows))
        self._rows = np.zeros((rows, _PIECE))
        self._run: Run | None = None
        self._ends = np.zeros(0, dtype=np.int64)

    def add(self, piece: Piece) -> None:
        """Count a piece."""
        run, low, arrays = piece.run, piece.start, piece.arrays
        if run != self._run:
            counts = [item.count for item in self._plan.items[run.first : run.last]]
            self._run, self._ends = run, np.cumsum(counts)
        end = low + len(arrays[0])
        place = int(np.searchsorted(self._ends, low, side="right"))
        while low < end:
            high = min(low + _PIECE, int(self._ends[place]), end)
            part = slice(low - piece.start, high - piece.start)
            self._count(self._products[run.first + place], [array[part] for array in arrays])
            low = high
            while low < end and low >= self._ends[place]:
                place += 1

    def _count(self, products: NDArray[np.float64], arrays: Sequence[NDArray[Any]]) -> None:
        based = len(arrays) > self._members
        rows = self._rows[:, : len(arrays[0])]
        reference = rows[0]
        np.copyto(reference, arrays[-1] if based else arrays[0])
        # Row i + 1 is member i; without a base the first one does not differ from itself.
        first = 0 if based else 1
        used = [0, *range(first + 1, self._members + 1)]
        for member in range(first, self._members):
            row = rows[member + 1]
            np.copyto(row, arrays[member])
            np.subtract(row, reference, out=row)
        for at, i in enumerate(used):
            for j in used[at:]:
                products[i, j] += rows[i].dot(rows[j])

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
