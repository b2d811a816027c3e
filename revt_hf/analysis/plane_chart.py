"""The ternary plots of scores over three members' weights."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from revt_hf.analysis.blend_scores import Score
from revt_hf.analysis.plane import PlanePoint
from revt_hf.results.figures import INK, figure

_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
_LEVELS = 14


def draw_plane(
    points: Sequence[PlanePoint], head: str, names: Sequence[str], data: str, path: Path
) -> None:
    """Draw one head's mIoU and loss over the triangle of the three encoders' weights.

    Args:
        points: see :func:`revt_hf.analysis.plane.scan`; at least the three corners.
        head: number of the member whose head it is.
        names: of the members, the corners.
        data: what was scored on, in words.
        path: the PNG.
    """
    measures: tuple[tuple[str, Callable[[Score], float], bool, str], ...] = (
        ("mIoU (%)", lambda score: score.miou, True, "%.1f"),
        ("loss", lambda score: score.loss, False, "%.3f"),
    )
    with figure(path, 11.5, 5.2, 1, 2) as (drawing, axes):
        for axis, (label, measure, high_is_good, ticks) in zip(axes[0], measures, strict=True):
            values = [measure(point.scores[head]) for point in points]
            filled = _triangle(axis, points, values, names, high_is_good)
            axis.set_title(label)
            drawing.colorbar(filled, ax=axis, shrink=0.8, format=ticks)
        owner = names[int(head) - 1]
        drawing.suptitle(f"Weighted means of three encoders, head of {owner}, on {data}")


def _triangle(
    axis: Any,
    points: Sequence[PlanePoint],
    values: Sequence[float],
    names: Sequence[str],
    high_is_good: bool,
) -> Any:
    places = np.array([[float(weight) for weight in point.weights] for point in points]) @ _CORNERS
    spread = max(values) - min(values)
    # A constant plane has no contours.
    low, high = (min(values), max(values)) if spread > 1e-9 else (values[0] - 0.5, values[0] + 0.5)
    filled = axis.tricontourf(
        places[:, 0],
        places[:, 1],
        values,
        levels=np.linspace(low, high, _LEVELS),
        cmap="viridis" if high_is_good else "viridis_r",
    )
    axis.scatter(places[:, 0], places[:, 1], s=6, color="white", edgecolors=INK, linewidths=0.4)
    best = int(np.argmax(values) if high_is_good else np.argmin(values))
    axis.scatter(*places[best], s=120, marker="*", color="#ffffff", edgecolors=INK, zorder=3)
    weights = ", ".join(str(weight) for weight in points[best].weights)
    axis.set_xlabel(f"star: best, {values[best]:.4g} at ({weights})")
    for place, (corner, name) in enumerate(zip(_CORNERS, names, strict=True)):
        at = [point.weights[place] for point in points].index(Fraction(1))
        below = corner[1] == 0
        axis.annotate(
            f"{name}\n{values[at]:.4g}",
            corner,
            xytext=(0, -6 if below else 6),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
        )
    axis.set(xlim=(-0.14, 1.14), ylim=(-0.13, 1.0), aspect="equal", xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.grid(False)
    return filled
