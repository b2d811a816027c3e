"""The heat map of members' similarity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize

from revt_hf.analysis.similarity import Part, Similarity
from revt_hf.results.figures import figure, short_names

# In inches: a column of the map, a row, what stands above and beside a map, labels below.
_COLUMN, _ROW, _TITLE, _BESIDE, _LABELS = 0.24, 0.3, 0.45, 1.3, 1.2
_NARROWEST = 5


@dataclass(frozen=True)
class _Panel:
    title: str
    rows: Sequence[str]
    values: Callable[[Part], list[float | None]]
    logarithmic: bool = False


def draw_similarity(result: Similarity, path: Path) -> None:
    """Draw cosine, L2 and mean squared displacement of all pairs, block by block, layer by layer.

    Args:
        result: see :func:`revt_hf.analysis.similarity.similarity`.
        path: the PNG.
    """
    head = [part for part in result.layer_types if part.name.startswith("head ")]
    encoder = [part for part in result.layer_types if part not in head]
    shown = {"blocks": result.blocks, "Layers of the encoder": encoder, "Parts of the head": head}
    columns = [parts for parts in shown.values() if parts]
    titles = [title for title, parts in shown.items() if parts]
    panels = _panels(result)
    widths = [max(_NARROWEST, len(parts)) * _COLUMN + _BESIDE for parts in columns]
    heights = [len(panel.rows) * _ROW + _TITLE for panel in panels]
    with figure(
        path,
        sum(widths) + _BESIDE,
        sum(heights) + _LABELS,
        len(panels),
        len(columns),
        width_ratios=widths,
        height_ratios=heights,
    ) as (drawing, axes):
        for line, panel in zip(axes, panels, strict=True):
            first = panel is panels[0]
            line[0].set_title(panel.title, loc="left")
            for axis, parts in zip(line, columns, strict=True):
                names = [part.name.removeprefix("head ") for part in parts] if first else []
                axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
                axis.xaxis.tick_top()
                axis.grid(False)
                image = _heat(axis, panel, parts)
                if image is not None:
                    drawing.colorbar(image, ax=axis, fraction=0.06, pad=0.02).ax.tick_params(
                        labelsize=7, which="both"
                    )
            line[0].set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
        for axis, title in zip(axes[0][1:], titles[1:], strict=True):
            axis.set_title(title, loc="left")


def _panels(result: Similarity) -> list[_Panel]:
    names = short_names(result.members)
    pairs = [f"{names[i - 1]} - {names[j - 1]}" for i, j in result.pairs]
    panels = [
        _Panel("Cosine of the weights", pairs, lambda part: [p.cosine for p in part.pairs]),
        _Panel("L2 distance", pairs, lambda part: [p.l2 for p in part.pairs]),
        _Panel("Mean squared displacement", pairs, lambda part: [p.msd for p in part.pairs], True),
    ]
    if result.base is None:
        return panels
    return [
        *panels,
        _Panel(
            "Cosine of the ways from the base", pairs, lambda part: [p.cosine for p in part.moves]
        ),
        _Panel(
            "Mean squared displacement from the base",
            names,
            lambda part: [p.msd for p in part.moved],
            True,
        ),
    ]


def _heat(axis: Any, panel: _Panel, parts: Sequence[Part]) -> Any:
    """The map, or None where nothing is known: the head has no base."""
    columns = [panel.values(part) for part in parts]
    table = np.full((len(panel.rows), len(parts)), np.nan)
    for place, column in enumerate(columns):
        table[: len(column), place] = [np.nan if value is None else value for value in column]
    if panel.logarithmic:
        # Equal weights have no logarithm.
        table[table <= 0] = np.nan
    axis.set_yticks([])
    known = table[np.isfinite(table)]
    if not known.size:
        axis.axis("off")
        return None
    limits = LogNorm if panel.logarithmic else Normalize
    norm = limits(known.min(), known.max())
    return axis.imshow(table, aspect="auto", norm=norm, cmap="viridis")
