"""How far members' weights are apart: cosine, L2 and mean squared displacement, part by part.

Tensors stream through small buffers, all sums are float64. Neither torch nor matplotlib is
imported. For two members x and y of n numbers: cosine x.y / (|x| |y|), L2 |x - y|, mean squared
displacement |x - y|^2 / n.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from revt_hf.analysis.parts import Group, blocks, layer_types, wholes
from revt_hf.analysis.products import Products, Reader
from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.merging.merge_plan import MergePlan, make_plan
from revt_hf.merging.merge_spec import MergeSpec, Rule


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
        products = Products(plan)
        for partial in Reader(plan, stack).partials():
            products.add(partial)
            on_bytes(partial.nbytes)
        products.check_finite()
    # Whole numbers, such as BatchNorm's count of batches, are no weights.
    kept = [place for place, item in enumerate(plan.items) if item.dtype in FLOATS]
    names = [plan.items[place].name for place in kept]
    steps = blocks(names)

    def parts(groups: Mapping[str, Group]) -> tuple[Part, ...]:
        return tuple(
            _part(plan, products, name, [kept[place] for place in group])
            for name, group in groups.items()
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


def _part(plan: MergePlan, products: Products, name: str, places: Group) -> Part:
    """All of some tensors together."""
    items = [plan.items[place] for place in places]
    count = sum(item.count for item in items)
    norms, between = products.norms(places)
    moved = between.diagonal()
    pairs, moves = [], []
    for i, j in combinations(range(len(norms)), 2):
        gap = moved[i] + moved[j] - 2 * between[i, j]
        pairs.append(_distance(norms[i], norms[j], gap, count))
        # What two members differ by is what their ways from the base differ by.
        moves.append(_distance(moved[i], moved[j], gap, count))
    if plan.base is None or any(item.rule is None for item in items):
        return Part(name, count, tuple(pairs))
    from_base = tuple(Distance(None, math.sqrt(gap), float(gap / count)) for gap in moved)
    return Part(name, count, tuple(pairs), tuple(moves), from_base)


def _distance(first: float, second: float, gap: float, count: int) -> Distance:
    """From |x|^2, |y|^2 and |x - y|^2; 2 x.y = |x|^2 + |y|^2 - |x - y|^2."""
    gap = max(0.0, float(gap))
    scale = math.sqrt(max(0.0, first) * max(0.0, second))
    cosine = max(-1.0, min(1.0, float((first + second - gap) / 2 / scale))) if scale else None
    return Distance(cosine, math.sqrt(gap), gap / count)


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
