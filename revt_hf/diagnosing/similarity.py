"""How far members' weights are apart: cosine, L2 and mean squared displacement, part by part.

Tensors stream through small buffers, all sums are float64. Neither torch nor matplotlib is
imported. For two members x and y of n numbers: cosine x.y / (|x| |y|), L2 |x - y|, mean squared
displacement |x - y|^2 / n.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.checkpoints.headers import ITEM_SIZES
from revt_hf.diagnosing.parts import Group, blocks, layer_types, wholes
from revt_hf.errors import UserError
from revt_hf.merging.feeds import opened, read_at
from revt_hf.merging.plan import FLOATS, MergeSpec, Plan, Rule, Source, make_plan
from revt_hf.merging.streaming import Run, runs, unpacked

_BUFFER_BYTES = 256 * 1024
# Short enough for the processor's cache, and for BLAS not to start threads.
_PIECE = 8192
_WORKERS = 4


@dataclass(frozen=True)
class Distance:
    """Between two members, over some tensors.

    Attributes:
        cosine: of the angle; None if one of them is 0.
        l2: the norm of the difference.
        msd: the mean of the squared differences.
    """

    cosine: float | None
    l2: float
    msd: float


@dataclass(frozen=True)
class Part:
    """A group of tensors.

    Attributes:
        name: such as ``block2.0`` or ``attention``.
        parameters: how many numbers it has.
        pairs: one a pair of members, in the order of ``Similarity.pairs``.
        moves: the same of the members' differences to the base: the cosine of two
            displacements. Empty without a base.
        moved: how far each member is from the base. Empty without a base.
    """

    name: str
    parameters: int
    pairs: tuple[Distance, ...]
    moves: tuple[Distance, ...] = ()
    moved: tuple[Distance, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Lists by measure."""
        row: dict[str, Any] = {"name": self.name, "parameters": self.parameters}
        row.update(_columns(self.pairs))
        if self.moved:
            row["displacement_cosine"] = [move.cosine for move in self.moves]
            row["from_base"] = _columns(self.moved)
        return row


@dataclass(frozen=True)
class Similarity:
    """What :func:`similarity` gives.

    Attributes:
        members: as given.
        base: as given.
        pairs: numbers of members, counted from 1.
        blocks: the encoder's steps from input to output.
        layer_types: attention, mlp, norm, patch_embed, then the head's modules.
        wholes: encoder, head, all.
        cumulative: the original's numbers, see :meth:`to_json`.
    """

    members: tuple[str, ...]
    base: str | None
    pairs: tuple[tuple[int, int], ...]
    blocks: tuple[Part, ...]
    layer_types: tuple[Part, ...]
    wholes: tuple[Part, ...]
    cumulative: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values.

        ``original`` is what the original's ``model_cosine_similarity.py`` prints: from the input
        up to and including each step, the mean over all pairs; its "msd" is |x - y| / n.
        """
        return {
            "format": "revt_hf.similarity/1",
            "members": list(self.members),
            "base": self.base,
            "pairs": [list(pair) for pair in self.pairs],
            "blocks": [part.to_json() for part in self.blocks],
            "layer_types": [part.to_json() for part in self.layer_types],
            "wholes": [part.to_json() for part in self.wholes],
            "original": [
                {
                    "up_to": part.name,
                    "cosine": _mean([pair.cosine for pair in part.pairs]),
                    "l2": _mean([pair.l2 for pair in part.pairs]),
                    "msd": _mean([pair.l2 / part.parameters for pair in part.pairs]),
                }
                for part in self.cumulative
            ],
        }


def similarity(
    members: Sequence[str],
    base: str | None = None,
    on_bytes: Callable[[int], object] = lambda _: None,
    on_total: Callable[[int], object] = lambda _: None,
    quiet: bool = True,
) -> Similarity:
    """Compare members tensor by tensor.

    Args:
        members: at least two folders, files or Hub ids, of one architecture.
        base: what they started from; its encoder is compared.
        on_bytes: called with the number of bytes read, for a progress bar.
        on_total: called before with the number of bytes there are.
        quiet: no progress bars while the Hub is read.

    Raises:
        UserError: fewer than two members, one that cannot be read or does not match the first,
            or NaN or infinity in one.
    """
    # The rule decides what of the base is wanted; its method is never called.
    rule = Rule("backbone", "mean" if base is None else "task_arithmetic")
    with ExitStack() as stack:
        spec = MergeSpec(tuple(map(str, members)), (rule,), base=base)
        plan = make_plan(spec, stack, quiet)
        count = len(members) + (base is not None)
        on_total(count * sum(item.count * ITEM_SIZES[item.dtype] for item in plan.items))
        sums = _summed(plan, stack, on_bytes)
        sums.check_finite()
    # Whole numbers, such as BatchNorm's count of batches, are no weights.
    kept = [place for place, item in enumerate(plan.items) if item.dtype in FLOATS]
    names = [plan.items[place].name for place in kept]
    steps = blocks(names)

    def parts(groups: Mapping[str, Group]) -> tuple[Part, ...]:
        return tuple(
            sums.part(name, [kept[place] for place in group]) for name, group in groups.items()
        )

    return Similarity(
        members=spec.members,
        base=base,
        pairs=tuple((i + 1, j + 1) for i, j in combinations(range(len(members)), 2)),
        blocks=parts(steps),
        layer_types=parts(layer_types(names)),
        wholes=parts(wholes(names)),
        cumulative=parts(_up_to(steps)),
    )


class _Worker:
    """Reads some of the pieces of all sources and sums them up, beside other workers."""

    def __init__(self, plan: Plan, files: Sequence[Sequence[int]]) -> None:
        self._plan = plan
        self._sources = _sources(plan)
        self._files = files
        self._buffers = [bytearray(_BUFFER_BYTES) for _ in self._sources]
        self.sums = _Sums(plan)

    def work(
        self, spans: Sequence[tuple[Run, int, int]], on_bytes: Callable[[int], object]
    ) -> "_Sums":
        """Go through pieces: a run, the first number in it, and how many there are."""
        for run, start, count in spans:
            arrays, read = [], 0
            for number in range(self._wanted(run)):
                view, dtype = self._read(number, run, start, count)
                arrays.append(unpacked(view, dtype))
                read += len(view)
            self.sums.add(run, start, arrays)
            on_bytes(read)
        return self.sums

    def _wanted(self, run: Run) -> int:
        # The base has no part in what the rule does not select.
        return len(self._sources) if run.rule is not None else len(self._plan.sources)

    def _read(self, number: int, run: Run, start: int, count: int) -> tuple[memoryview, str]:
        source = self._sources[number]
        dtype = source.dtypes.get(run.first, self._plan.items[run.first].dtype)
        view = memoryview(self._buffers[number])[: count * ITEM_SIZES[dtype]]
        file = int(source.file[run.first])
        offset = int(source.offset[run.first]) + start * ITEM_SIZES[dtype]
        read_at(self._files[number][file], source.files[file], offset, view)
        return view, dtype


def _sources(plan: Plan) -> list[Source]:
    return [*plan.sources, *([plan.base] if plan.base else [])]


def _spans(plan: Plan) -> list[tuple[Run, int, int]]:
    """All pieces of all tensors of numbers with a fraction, whatever their dtype."""
    step = _BUFFER_BYTES // max(ITEM_SIZES[dtype] for dtype in FLOATS)
    return [
        (run, start, min(step, run.count - start))
        for run in runs(plan)
        if plan.items[run.first].dtype in FLOATS
        for start in range(0, run.count, step)
    ]


def _summed(plan: Plan, stack: ExitStack, on_bytes: Callable[[int], object]) -> "_Sums":
    """All sums of all sources."""
    files = [[opened(path, stack) for path in source.files] for source in _sources(plan)]
    spans, workers = _spans(plan), min(_WORKERS, os.cpu_count() or 1)
    # The threads end before the files close that they read.
    with ThreadPoolExecutor(workers) as threads:
        waiting = [
            threads.submit(_Worker(plan, files).work, spans[at::workers], on_bytes)
            for at in range(workers)
        ]
        first, *others = [future.result() for future in waiting]
    for other in others:
        first.include(other)
    return first


class _Sums:
    """Squared norms and squared differences of every tensor of the plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._members = len(plan.sources)
        self._pairs = list(combinations(range(self._members), 2))
        self._based = plan.base is not None
        tensors = len(plan.items)
        self._norms = np.zeros((tensors, self._members))
        self._gaps = np.zeros((tensors, len(self._pairs)))
        self._moved = np.zeros((tensors, self._members))
        self._wide = np.empty((self._members + 1, _PIECE))
        self._difference = np.empty(_PIECE)
        self._run: Run | None = None
        self._run_ends = np.zeros(0, dtype=np.int64)

    def add(self, run: Run, start: int, arrays: Sequence[NDArray[Any]]) -> None:
        """Count numbers from ``start`` on of a run, the same of every source."""
        end, low = start + len(arrays[0]), start
        ends = self._ends(run)
        place = int(np.searchsorted(ends, start, side="right"))
        while low < end:
            high = min(low + _PIECE, int(ends[place]), end)
            piece = [array[low - start : high - start] for array in arrays]
            self._count(run.first + place, piece)
            low = high
            while low < end and low >= ends[place]:
                place += 1

    def _ends(self, run: Run) -> NDArray[np.int64]:
        """Where in a run each of its tensors ends."""
        if run != self._run:
            counts = [item.count for item in self._plan.items[run.first : run.last]]
            self._run, self._run_ends = run, np.cumsum(counts)
        return self._run_ends

    def _count(self, place: int, arrays: Sequence[NDArray[Any]]) -> None:
        length = len(arrays[0])
        wide = self._wide[:, :length]
        difference = self._difference[:length]
        for row, array in zip(wide, arrays, strict=False):
            np.copyto(row, array)
        for member in range(self._members):
            self._norms[place, member] += wide[member].dot(wide[member])
        for pair, (i, j) in enumerate(self._pairs):
            np.subtract(wide[i], wide[j], out=difference)
            self._gaps[place, pair] += difference.dot(difference)
        if len(arrays) > self._members:
            for member in range(self._members):
                np.subtract(wide[member], wide[self._members], out=difference)
                self._moved[place, member] += difference.dot(difference)

    def include(self, other: "_Sums") -> None:
        """Add the sums over other pieces."""
        self._norms += other._norms
        self._gaps += other._gaps
        self._moved += other._moved

    def check_finite(self) -> None:
        """Refuse NaN and infinity.

        Raises:
            UserError: a member holds one.
        """
        broken = np.argwhere(~np.isfinite(self._norms))
        if broken.size:
            place, member = broken[0]
            raise UserError(
                f"{self._plan.sources[member].label}: the tensor {self._plan.items[place].name} "
                "holds NaN or infinity: there is no distance to it"
            )

    def part(self, name: str, places: Group) -> Part:
        """All of some tensors together."""
        items = [self._plan.items[place] for place in places]
        count = sum(item.count for item in items)
        norms, gaps, moved = (
            table[places].sum(0) for table in (self._norms, self._gaps, self._moved)
        )
        pairs = tuple(
            _distance(norms[i], norms[j], gap, count)
            for (i, j), gap in zip(self._pairs, gaps, strict=True)
        )
        if not self._based or any(item.rule is None for item in items):
            return Part(name, count, pairs)
        # What two members differ by is what their displacements differ by.
        moves = tuple(
            _distance(moved[i], moved[j], gap, count)
            for (i, j), gap in zip(self._pairs, gaps, strict=True)
        )
        bases = tuple(Distance(None, math.sqrt(gap), gap / count) for gap in moved)
        return Part(name, count, pairs, moves, bases)


def _distance(first: float, second: float, gap: float, count: int) -> Distance:
    """From |x|^2, |y|^2 and |x - y|^2; 2 x.y = |x|^2 + |y|^2 - |x - y|^2."""
    # Near members: nothing cancels, which a sum of products would have to.
    product = (first + second - gap) / 2
    scale = math.sqrt(first * second)
    cosine = max(-1.0, min(1.0, float(product / scale))) if scale else None
    return Distance(cosine, math.sqrt(gap), float(gap / count))


def _up_to(steps: Mapping[str, Group]) -> dict[str, Group]:
    """Each step with all before it."""
    so_far: Group = []
    cumulative = {}
    for name, places in steps.items():
        so_far = [*so_far, *places]
        cumulative[name] = so_far
    return cumulative


def _columns(distances: Sequence[Distance]) -> dict[str, list[float | None]]:
    columns: dict[str, list[float | None]] = {
        "l2": [distance.l2 for distance in distances],
        "msd": [distance.msd for distance in distances],
    }
    if any(distance.cosine is not None for distance in distances):
        columns = {"cosine": [distance.cosine for distance in distances], **columns}
    return columns


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
