"""Distances between members' weights: cosine, L2 and mean squared displacement.

Tensors stream through small buffers, and all sums are float64. Neither torch nor, without a chart,
matplotlib is imported.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from revt_hf.analysis.products import Products
from revt_hf.analysis.tensor_groups import Group, blocks, layer_types, wholes
from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.core.outputs import atomic_folder, check_output, write_json
from revt_hf.merging.merge_plan import MergePlan, make_plan
from revt_hf.merging.merge_spec import MergeSpec, Rule
from revt_hf.results.figures import figure, short_names

# Sizes in inches of the heat maps' columns, rows, titles, margins and labels.
_COLUMN, _ROW, _TITLE, _BESIDE, _LABELS = 0.24, 0.3, 0.45, 1.3, 1.2
_FEWEST_COLUMNS = 5


@dataclass(frozen=True)
class Distance:
    """Between two members x and y, over some tensors of n numbers together.

    Attributes:
        cosine: x.y / (|x| |y|); None if one of them is 0.
        l2: |x - y|.
        msd: the mean squared displacement, |x - y|^2 / n.
    """

    cosine: float | None
    l2: float
    msd: float


@dataclass(frozen=True)
class Part:
    """Distances over a group of tensors.

    Attributes:
        name: of the group, such as ``block2.0`` or ``attention``.
        parameters: the number of its parameters.
        pairs: one for each of ``Similarity.pairs``.
        moves: for each pair, the distance between the displacements from the base; empty without
            a base.
        moved: the distance of each member from the base, without a cosine; empty without a base.
    """

    name: str
    parameters: int
    pairs: tuple[Distance, ...]
    moves: tuple[Distance, ...] = ()
    moved: tuple[Distance, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A list of numbers for each measure."""
        row: dict[str, Any] = {"name": self.name, "parameters": self.parameters}
        if any(pair.cosine is not None for pair in self.pairs):
            row["cosine"] = [pair.cosine for pair in self.pairs]
        row.update(_lengths(self.pairs))
        if self.moved:
            row["displacement_cosine"] = [move.cosine for move in self.moves]
            row["from_base"] = _lengths(self.moved)
        return row


def _lengths(distances: Sequence[Distance]) -> dict[str, list[float]]:
    return {"l2": [one.l2 for one in distances], "msd": [one.msd for one in distances]}


@dataclass(frozen=True)
class Similarity:
    """Distances between members.

    Attributes:
        members: as given.
        base: as given.
        pairs: the numbers of two members each, from 1.
        blocks: the blocks of the encoder, from input to output.
        layer_types: attention, mlp, norm, patch_embed, then the modules of the head.
        wholes: encoder, head, all.
        cumulative: each block together with all before it.
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

        ``original`` holds what the original's ``model_cosine_similarity.py`` prints: from the
        input up to and including each block, the mean over all pairs; its "msd" is |x - y| / n.
        """
        return {
            "format": "revt_hf.similarity/1",
            "members": list(self.members),
            "base": self.base,
            "pairs": [list(pair) for pair in self.pairs],
            **{
                table: [part.to_json() for part in getattr(self, table)]
                for table in ("blocks", "layer_types", "wholes")
            },
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


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def similarity(
    members: Sequence[str],
    base: str | None = None,
    on_bytes: Callable[[int], object] = lambda _: None,
    on_total: Callable[[int], object] = lambda _: None,
    quiet: bool = True,
) -> Similarity:
    """Compare members tensor by tensor.

    Args:
        members: at least two folders, files or Hub IDs of one architecture.
        base: their initial weights, whose encoder is compared.
        on_bytes: called with the number of bytes read, for a progress bar.
        on_total: called first, with the number of bytes to read.
        quiet: hide progress bars while the Hub is read.

    Raises:
        UserError: fewer than two members; one that cannot be read, does not match the first, or
            holds NaN or infinity.
    """
    # The rule decides which tensors of the base are needed; its method is never called.
    rule = Rule("backbone", "mean" if base is None else "task_arithmetic")
    with ExitStack() as stack:
        spec = MergeSpec(tuple(map(str, members)), (rule,), base=base)
        plan = make_plan(spec, stack, quiet)
        sources = len(members) + (base is not None)
        on_total(sources * sum(item.count * ITEM_SIZES[item.dtype] for item in plan.items))
        products = Products(plan, stack, on_bytes)
    # Integers, such as BatchNorm's count of batches, are not weights.
    kept = [index for index, item in enumerate(plan.items) if item.dtype in FLOATS]
    names = [plan.items[index].name for index in kept]
    of_blocks = blocks(names)
    cumulative = dict(zip(of_blocks, accumulate(of_blocks.values()), strict=True))

    def parts(groups: Mapping[str, Group]) -> tuple[Part, ...]:
        return tuple(
            _part(plan, products, name, [kept[index] for index in group])
            for name, group in groups.items()
        )

    return Similarity(
        members=spec.members,
        base=base,
        pairs=tuple((i + 1, j + 1) for i, j in combinations(range(len(members)), 2)),
        blocks=parts(of_blocks),
        layer_types=parts(layer_types(names)),
        wholes=parts(wholes(names)),
        cumulative=parts(cumulative),
    )


def _part(plan: MergePlan, products: Products, name: str, group: Group) -> Part:
    items = [plan.items[index] for index in group]
    count = sum(item.count for item in items)
    norms, between = products.norms(group)
    moved = between.diagonal()
    pairs, moves = [], []
    for i, j in combinations(range(len(norms)), 2):
        gap = moved[i] + moved[j] - 2 * between[i, j]
        pairs.append(_distance(norms[i], norms[j], gap, count))
        # Two members differ by as much as their displacements do.
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


def diagnose_similarity(
    members: Mapping[str, str],
    output: Path,
    base: str | None = None,
    plot: bool = True,
    overwrite: bool = False,
    quiet: bool = False,
) -> Similarity:
    """Write ``similarity.json`` and, if asked, ``similarity.png``; see :func:`similarity`."""
    inputs = [*members.values(), base]
    check_output(output, overwrite, inputs)
    with tqdm(unit="B", unit_scale=True, desc="similarity", disable=quiet) as bar:
        result = similarity(list(members.values()), base, bar.update, bar.reset, quiet)
    with atomic_folder(output, overwrite, inputs) as scratch:
        write_json(scratch / "similarity.json", result.to_json())
        if plot:
            draw_similarity(result, short_names(list(members)), scratch / "similarity.png")
    return result


def draw_similarity(result: Similarity, names: Sequence[str], path: Path) -> None:
    """Draw a heat map of each measure: pairs of members by blocks, layer types and head modules.

    Args:
        result: of :func:`similarity`.
        names: of the members.
        path: the PNG.
    """
    head = [part for part in result.layer_types if part.name.startswith("head ")]
    encoder = [part for part in result.layer_types if part not in head]
    pairs = [f"{names[i - 1]} - {names[j - 1]}" for i, j in result.pairs]
    # Title, rows, a column of values for each part, whether the scale is logarithmic.
    panels: list[tuple[str, Sequence[str], Callable[[Part], list[float | None]], bool]] = [
        ("Cosine of the weights", pairs, lambda part: [p.cosine for p in part.pairs], False),
        ("L2 distance", pairs, lambda part: [p.l2 for p in part.pairs], False),
        ("Mean squared displacement", pairs, lambda part: [p.msd for p in part.pairs], True),
    ]
    if result.base is not None:
        panels += [
            ("Cosine of displacements", pairs, lambda part: [p.cosine for p in part.moves], False),
            ("Displacement from the base", names, lambda part: [p.msd for p in part.moved], True),
        ]
    columns = {"": result.blocks, "Layers of the encoder": encoder, "Modules of the head": head}
    columns = {heading: parts for heading, parts in columns.items() if parts}
    widths = [max(_FEWEST_COLUMNS, len(parts)) * _COLUMN + _BESIDE for parts in columns.values()]
    heights = [len(rows) * _ROW + _TITLE for _, rows, *_ in panels]
    size = (sum(widths) + _BESIDE, sum(heights) + _LABELS)
    ratios: dict[str, Any] = {"width_ratios": widths, "height_ratios": heights}
    with figure(path, *size, len(panels), len(columns), **ratios) as (drawing, axes):
        for number, (title, rows, values, logarithmic) in enumerate(panels):
            line = axes[number]
            for axis, (heading, parts) in zip(line, columns.items(), strict=True):
                ticks = []
                if number == 0:
                    axis.set_title(heading, loc="left")
                    ticks = [part.name.removeprefix("head ") for part in parts]
                axis.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=7)
                axis.set_yticks([])
                axis.xaxis.tick_top()
                axis.grid(False)
                _heat_map(drawing, axis, [values(part) for part in parts], len(rows), logarithmic)
            line[0].set_title(title, loc="left")
            line[0].set_yticks(range(len(rows)), rows, fontsize=8)


def _heat_map(
    drawing: Any, axis: Any, columns: Sequence[list[float | None]], rows: int, logarithmic: bool
) -> None:
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import LogFormatter

    table = np.full((rows, len(columns)), np.nan)
    for index, column in enumerate(columns):
        table[: len(column), index] = [np.nan if value is None else value for value in column]
    if logarithmic:
        # The displacement of equal weights has no logarithm.
        table[table <= 0] = np.nan
    known = table[np.isfinite(table)]
    if not known.size:
        # The head has no base.
        axis.axis("off")
        return
    norm = (LogNorm if logarithmic else Normalize)(known.min(), known.max())
    image = axis.imshow(table, aspect="auto", norm=norm, cmap="viridis")
    bar = drawing.colorbar(image, ax=axis, fraction=0.06, pad=0.02)
    bar.ax.tick_params(labelsize=7, which="both")
    if logarithmic:
        # The default labels are formulas, which figures show as they are written.
        bar.ax.yaxis.set(major_formatter=LogFormatter(), minor_formatter=LogFormatter())
