"""Groups of tensors, and scalar products of weights read through small buffers; no torch."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.checkpoints.names import BACKBONE_PREFIX, HEAD_PREFIX
from revt_hf.core.errors import UserError
from revt_hf.merging.merge_plan import MergePlan, Run
from revt_hf.merging.selection import original_name, select
from revt_hf.merging.streaming import opened, read_at, unpacked

# Indices of tensors by the name of what they make up together.
Groups = Mapping[str, list[int]]
# Presets of ``revt merge --select``: an attention's LayerNorm counts as attention and as norm.
_LAYER_TYPES = ("attention", "mlp", "norm", "patch_embed")
_HEAD_MODULES = (*(f"linear_c.{s}" for s in range(4)), "linear_fuse", "batch_norm", "classifier")
_WHOLES = {"encoder": BACKBONE_PREFIX, "head": HEAD_PREFIX, "all": ""}
_BLOCK = re.compile(r"backbone\.(patch_embed|block|norm)(\d+)\.(?:(\d+)\.)?")
# In the order of a stage.
_KINDS = ("patch_embed", "block", "norm")
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
        self._plan = plan
        self._members = len(plan.sources)
        self._files = [[opened(path, stack) for path in source.files] for source in plan.inputs]
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
        """|x_i|^2 of each member, and the products of the members' differences from the reference.

        Over the tensors of a group (indices) together: (members,) and (members, members).
        """
        products = self._products[group].sum(0)
        between = products[1:, 1:]
        return products[0, 0] + 2 * products[0, 1:] + between.diagonal(), between

    def _add(self, run: Run, start: int, count: int) -> int:
        """Add the products of ``count`` numbers of a run; the number of bytes read."""
        arrays = self._read(run, start, count)
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

    def _read(self, run: Run, start: int, count: int) -> list[NDArray[Any]]:
        """The numbers of every source, the base last if the rule needs it."""
        arrays, first = [], run.first
        wanted = self._plan.inputs if run.rule is not None else self._plan.sources
        for source, files, buffer in zip(wanted, self._files, self._buffers, strict=False):
            dtype, number = source.dtypes[first], int(source.file[first])
            view = memoryview(buffer)[: count * ITEM_SIZES[dtype]]
            offset = int(source.offset[first]) + start * ITEM_SIZES[dtype]
            read_at(files[number], source.files[number], offset, view)
            arrays.append(unpacked(view, dtype))
        return arrays

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


def tensor_groups(names: Sequence[str]) -> dict[str, Groups]:
    """The tables of a similarity: blocks, layer types, wholes, and blocks with all before them.

    Blocks are named as in the original, from input to output: patch_embed1, block1.0, ..., norm4.
    """
    types = {}
    for preset in _LAYER_TYPES:
        # Not every file has every type of layer.
        with suppress(UserError):
            types[preset] = [names.index(name) for name in select(preset, names)]
    blocks: dict[tuple[int, int, int], list[int]] = {}
    modules: dict[str, list[int]] = {name: [] for name in _HEAD_MODULES}
    for index, name in enumerate(names):
        match = _BLOCK.match(original_name(name) or "")
        if match:
            kind, stage, number = match.groups()
            block = int(number) if kind == "block" else 0
            blocks.setdefault((int(stage), _KINDS.index(kind), block), []).append(index)
        elif name.startswith(HEAD_PREFIX):
            module = name.removeprefix(HEAD_PREFIX).rpartition(".")[0].removesuffix(".proj")
            modules.setdefault(module, []).append(index)
    in_order = {
        f"{_KINDS[kind]}{stage}{f'.{block}' if _KINDS[kind] == 'block' else ''}": group
        for (stage, kind, block), group in sorted(blocks.items())
    }
    wholes = {
        whole: [index for index, name in enumerate(names) if name.startswith(prefix)]
        for whole, prefix in _WHOLES.items()
    }
    return {
        "blocks": in_order,
        "layer_types": types | {f"head {name}": group for name, group in modules.items() if group},
        "wholes": {whole: group for whole, group in wholes.items() if group},
        "cumulative": dict(zip(in_order, accumulate(in_order.values()), strict=True)),
    }
