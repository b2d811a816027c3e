"""The plot of loss and mIoU along lines through the weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from revt_hf.analysis.blend_scores import Score
from revt_hf.analysis.path import EVERYTHING, Line
from revt_hf.results.figures import ACCENT, colour, figure


def draw_paths(lines: Sequence[Line], names: Sequence[str], data: str, path: Path) -> None:
    """Draw every way as a column: loss above, mIoU below, dashed what the ends would suggest.

    Args:
        lines: see :func:`revt_hf.analysis.path.paths`.
        names: of the members.
        data: what was scored on, in words.
        path: the PNG.
    """
    ends = list(dict.fromkeys((line.first, line.last) for line in lines))
    measures: tuple[tuple[str, Callable[[Score], float]], ...] = (
        (f"loss on {data}", lambda score: score.loss),
        (f"mIoU on {data} (%)", lambda score: score.miou),
    )
    width = 1.2 + 4.2 * len(ends)
    with figure(path, width, 6.4, 2, len(ends), sharex=True) as (_, axes):
        for column, way in enumerate(ends):
            shown = [line for line in lines if (line.first, line.last) == way]
            for row, (label, measure) in enumerate(measures):
                for line in shown:
                    _draw(axes[row][column], line, names, measure, labelled=row == 0)
                axes[row][column].set_ylabel(label if column == 0 else "")
            origin = names[way[0] - 1] if way[0] else "init"
            target = names[way[1] - 1]
            axes[0][column].set_title(f"{origin} to {target}")
            axes[0][column].legend(fontsize=8)
            axes[1][column].set_xlabel(f"share of {target} in the weights")


def _draw(
    axis: Any,
    line: Line,
    names: Sequence[str],
    measure: Callable[[Score], float],
    labelled: bool,
) -> None:
    values = [measure(score) for score in line.scores]
    if line.head == EVERYTHING:
        ink, what = ACCENT, "head interpolated, too"
    else:
        ink, what = colour(int(line.head) - 1), f"head of {names[int(line.head) - 1]}"
    label = f"{what}: barrier {line.barrier().loss:.3f}" if labelled else None
    axis.plot(line.points, values, color=ink, marker="o", markersize=3.5, label=label)
    axis.plot((0, 1), (values[0], values[-1]), color=ink, linestyle=(0, (4, 3)), linewidth=0.9)
