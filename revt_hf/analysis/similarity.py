"""Distances between members' weights: cosine, L2 and mean squared displacement.

Tensors stream through small buffers, and all sums are float64. Neither torch nor, without a chart,
matplotlib is imported.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from revt_hf.analysis.products import Products
from revt_hf.checkpoints.families import SEGFORMER, Family
from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_folder, check_output, write_json
from revt_hf.merging.merge_plan import MergePlan, make_plan
from revt_hf.merging.registry import MergeSpec, Rule
from revt_hf.merging.selection import pyramid_step, select

# Presets of ``revt merge --select``: an attention's LayerNorm counts as attention and as norm.
_LAYER_TYPES = ("attention", "mlp", "norm", "patch_embed")
_HEAD_MODULES = (*(f"linear_c.{s}" for s in range(4)), "linear_fuse", "batch_norm", "classifier")
# Parts of a name that have a number.
_NUMBERED = re.compile(r"([^.]+)\.(\d+)\.")
# In the original's names, in the order of a stage.
_PARTS = ("patch_embed{}", "block{}.{}", "norm{}")
# Sizes in inches of the heat maps' columns, rows, titles, margins and labels.
_COLUMN, _ROW, _TITLE, _BESIDE, _LABELS = 0.24, 0.3, 0.45, 1.3, 1.2
_FEWEST_COLUMNS = 5


def _tensor_groups(names: Sequence[str], family: Family) -> dict[str, Mapping[str, list[int]]]:
    """Indices of tensors by table and part; a SegFormer's blocks have the original's names."""
    types = {}
    for preset in _LAYER_TYPES:
        # Not every file has every type of layer.
        with suppress(UserError):
            types[preset] = [names.index(name) for name in select(preset, names, family)]
    is_segformer = family is SEGFORMER
    steps: dict[tuple[Any, ...], list[int]] = {}
    modules: dict[str, list[int]] = {f"head {n}": [] for n in _HEAD_MODULES if is_segformer}
    wholes: dict[str, list[int]] = {"encoder": [], "head": [], "all": [*range(len(names))]}
    for index, name in enumerate(names):
        in_encoder = family.in_encoder(name)
        wholes["encoder" if in_encoder else "head"].append(index)
        if in_encoder:
            step = pyramid_step(name) if is_segformer else _block(name.removeprefix(family.prefix))
            if step:
                steps.setdefault(step, []).append(index)
        else:
            module = name.removeprefix(family.head).rpartition(".")[0].removesuffix(".proj")
            modules.setdefault(f"head {module}", []).append(index)
    blocks = {
        _PARTS[step[1]].format(step[0] + 1, step[2]) if is_segformer else _path(step): steps[step]
        for step in sorted(steps)
    }
    tables = {"blocks": blocks, "layer_types": types | modules, "wholes": wholes}
    tables["cumulative"] = dict(zip(blocks, accumulate(blocks.values()), strict=True))
    return {
        table: {name: group for name, group in groups.items() if group}
        for table, groups in tables.items()
    }


def _block(name: str) -> tuple[tuple[str, int], ...]:
    """A tensor's place in an encoder, as far as it is numbered: parts of its name and numbers."""
    return tuple((part, int(number)) for part, number in _NUMBERED.findall(name))


def _path(step: Sequence[tuple[str, int]]) -> str:
    return ".".join(f"{part}.{number}" for part, number in step)


def similarity(
    members: Sequence[str],
    base: str | None = None,
    on_bytes: Callable[[int], object] = lambda _: None,
    on_total: Callable[[int], object] = lambda _: None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Compare members (and their displacements from ``base``); the content of ``similarity.json``.

    Every part has a cosine, l2 and mean squared displacement (msd) for each of ``pairs``. As in the
    original's ``model_cosine_similarity.py``, ``original`` goes up to a block; msd is |x - y| / n.
    """
    # The rule decides which tensors of the base are needed; its method is never called.
    rule = Rule("backbone", "mean" if base is None else "task_arithmetic")
    with ExitStack() as stack:
        spec = MergeSpec(tuple(map(str, members)), (rule,), base=base)
        plan = make_plan(spec, stack, quiet)
        size = sum(item.count * ITEM_SIZES[item.dtype] for item in plan.items)
        on_total(len(plan.inputs) * size)
        products = Products(plan, stack, on_bytes)
    family = plan.sources[0].family
    # Integers, such as BatchNorm's count of batches, are not weights.
    kept = [index for index, item in enumerate(plan.items) if item.dtype in FLOATS]
    tables = {
        table: [
            _part(plan, products, name, [kept[index] for index in group])
            for name, group in groups.items()
        ]
        for table, groups in _tensor_groups(
            [plan.items[index].name for index in kept], family
        ).items()
    }
    original = [
        {
            "up_to": part["name"],
            "cosine": mean_of(part.get("cosine", ())),
            "l2": mean_of(part["l2"]),
            "msd": mean_of([l2 / part["parameters"] for l2 in part["l2"]]),
        }
        for part in tables.pop("cumulative")
    ]
    return {
        "format": "revt_hf.similarity/1",
        "members": list(spec.members),
        "base": base,
        "pairs": [list(pair) for pair in combinations(range(1, len(members) + 1), 2)],
        **tables,
        "original": original,
    }


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _part(plan: MergePlan, products: Products, name: str, group: Sequence[int]) -> dict[str, Any]:
    items = [plan.items[index] for index in group]
    count = sum(item.count for item in items)
    norms, between = products.norms(group)
    moved = between.diagonal()
    cosines, gaps, moves = [], [], []
    for i, j in combinations(range(len(norms)), 2):
        gap = max(0.0, float(moved[i] + moved[j] - 2 * between[i, j]))
        gaps.append(gap)
        cosines.append(_cosine(norms[i], norms[j], gap))
        # Two members differ by as much as their displacements do.
        moves.append(_cosine(moved[i], moved[j], gap))
    part: dict[str, Any] = {"name": name, "parameters": count}
    if any(cosine is not None for cosine in cosines):
        part["cosine"] = cosines
    part |= _lengths(gaps, count)
    if plan.base is not None and all(item.rule is not None for item in items):
        part["displacement_cosine"] = moves
        part["from_base"] = _lengths(moved.tolist(), count)
    return part


def _lengths(gaps: Sequence[float], count: int) -> dict[str, list[float]]:
    return {"l2": [math.sqrt(gap) for gap in gaps], "msd": [gap / count for gap in gaps]}


def _cosine(first: float, second: float, gap: float) -> float | None:
    """From |x|^2, |y|^2 and |x - y|^2; 2 x.y = |x|^2 + |y|^2 - |x - y|^2."""
    scale = math.sqrt(max(0.0, first) * max(0.0, second))
    return max(-1.0, min(1.0, float((first + second - gap) / 2 / scale))) if scale else None


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def diagnose_similarity(
    members: Mapping[str, str],
    output: Path,
    base: str | None = None,
    plot: bool = True,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write ``similarity.json`` and, if asked, ``similarity.png``; see :func:`similarity`."""
    inputs = [*members.values(), base]
    check_output(output, overwrite, inputs)
    with tqdm(unit="B", unit_scale=True, desc="similarity", disable=quiet) as bar:
        result = similarity(list(members.values()), base, bar.update, bar.reset, quiet)
    with atomic_folder(output, overwrite, inputs) as scratch:
        write_json(scratch / "similarity.json", result)
        if plot:
            _draw_similarity(result, list(members), scratch / "similarity.png")
    return result


def _draw_similarity(result: Mapping[str, Any], members: Sequence[str], path: Path) -> None:
    """Draw a heat map of each measure: pairs of members by blocks, layer types and head modules."""
    # It imports datasets, which takes more memory than the comparison.
    from revt_hf.results.figures import figure, short_names

    names = short_names(members)
    types = result["layer_types"]
    head = [part for part in types if part["name"].startswith("head ")]
    encoder = [part for part in types if part not in head]
    pairs = [f"{names[i - 1]} - {names[j - 1]}" for i, j in result["pairs"]]
    # Title, rows, what a part is asked for, whether the scale is logarithmic.
    panels = [
        ("Cosine of the weights", pairs, "cosine", False),
        ("L2 distance", pairs, "l2", False),
        ("Mean squared displacement", pairs, "msd", True),
    ]
    if result["base"] is not None:
        panels += [
            ("Cosine of displacements", pairs, "displacement_cosine", False),
            ("Displacement from the base", names, "from_base", True),
        ]
    columns = {"": result["blocks"], "Layers of the encoder": encoder, "Modules of the head": head}
    columns = {heading: parts for heading, parts in columns.items() if parts}
    widths = [max(_FEWEST_COLUMNS, len(parts)) * _COLUMN + _BESIDE for parts in columns.values()]
    heights = [len(rows) * _ROW + _TITLE for _, rows, *_ in panels]
    size = (sum(widths) + _BESIDE, sum(heights) + _LABELS)
    ratios: dict[str, Any] = {"width_ratios": widths, "height_ratios": heights}
    with figure(path, *size, len(panels), len(columns), **ratios) as (drawing, axes):
        for number, (title, rows, measure, logarithmic) in enumerate(panels):
            line = axes[number]
            for axis, (heading, parts) in zip(line, columns.items(), strict=True):
                ticks = []
                if number == 0:
                    axis.set_title(heading, loc="left")
                    ticks = [part["name"].removeprefix("head ") for part in parts]
                axis.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=7)
                axis.set_yticks([])
                axis.xaxis.tick_top()
                axis.grid(False)
                table = np.full((len(rows), len(parts)), np.nan)
                for column, part in enumerate(parts):
                    values = part.get(measure, ())
                    values = values["msd"] if measure == "from_base" and values else values
                    # None becomes NaN.
                    table[: len(values), column] = np.array(values, dtype=float)
                _heat_map(drawing, axis, table, logarithmic)
            line[0].set_title(title, loc="left")
            line[0].set_yticks(range(len(rows)), rows, fontsize=8)


def _heat_map(drawing: Any, axis: Any, table: Any, logarithmic: bool) -> None:
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import LogFormatter

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
