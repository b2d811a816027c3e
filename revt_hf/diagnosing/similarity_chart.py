"""The heat map of members' similarity."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize

from revt_hf.diagnosing.figures import figure, short_names
from revt_hf.diagnosing.similarity import Distance, Part, Similarity

# Of the figure, in inches.
_COLUMN, _ROW, _MARGINS = 0.24, 0.3, 3.2

Values = Callable[[Part], list[float | None]]


def draw_similarity(result: Similarity, path: Path) -> None:
    """Draw cosine, L2 and mean squared displacement of all pairs, block by block, layer by layer.

    Args:
        result: see :func:`revt_hf.diagnosing.similarity.similarity`.
        path: the PNG.
    """
    names = short_names(result.members)
    pairs = [f"{names[i - 1]} - {names[j - 1]}" for i, j in result.pairs]
    panels: list[tuple[str, list[str], Values, bool]] = [
        ("cosine of the weights", pairs, _measure("cosine"), False),
        ("L2 distance", pairs, _measure("l2"), False),
        ("mean squared displacement (log scale)", pairs, _measure("msd"), True),
    ]
    if result.base is not None:
        panels += [
            (
                "cosine of the ways from the base",
                pairs,
                lambda part: [move.cosine for move in part.moves],
                False,
            ),
            (
                "mean squared displacement from the base (log scale)",
                names,
                lambda part: [move.msd for move in part.moved],
                True,
            ),
        ]
    columns = (result.blocks, result.layer_types)
    widths = [max(4, len(parts)) * _COLUMN for parts in columns]
    height = sum(len(rows) * _ROW + 1.25 for _, rows, _, _ in panels)
    with figure(
        path,
        sum(widths) + _MARGINS,
        height,
        rows=len(panels),
        columns=2,
        width_ratios=widths,
        height_ratios=[len(rows) * _ROW + 1.25 for _, rows, _, _ in panels],
    ) as (drawing, axes):
        for line, (title, rows, values, logarithmic) in zip(axes, panels, strict=True):
            for place, (axis, parts) in enumerate(zip(line, columns, strict=True)):
                image = _heat(axis, parts, rows if place == 0 else [], values, logarithmic)
                drawing.colorbar(image, ax=axis, fraction=0.05, pad=0.01)
            line[0].set_title(f"{title}, by block", loc="left")
            line[1].set_title("by kind of layer", loc="left")


def _measure(name: str) -> Values:
    def values(part: Part) -> list[float | None]:
        pairs: tuple[Distance, ...] = part.pairs
        return [getattr(pair, name) for pair in pairs]

    return values


def _heat(
    axis: Any, parts: tuple[Part, ...], rows: list[str], values: Values, logarithmic: bool
) -> Any:
    columns = [values(part) for part in parts]
    count = max(map(len, columns))
    # The head has no base.
    table = np.full((count, len(parts)), np.nan)
    for place, column in enumerate(columns):
        table[: len(column), place] = [np.nan if value is None else value for value in column]
    if logarithmic:
        # Equal weights have no logarithm.
        table[table <= 0] = np.nan
    finite = table[np.isfinite(table)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.5, 1.0)
    norm = LogNorm(low, high) if logarithmic else Normalize(low, high)
    image = axis.imshow(table, aspect="auto", norm=norm, cmap="viridis")
    axis.grid(False)
    axis.set_xticks(range(len(parts)), [part.name for part in parts], rotation=90, fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    if not rows:
        axis.set_yticks([])
    return image
