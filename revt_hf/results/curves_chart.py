"""The figure of ``revt curves``: a panel for each corruption, a line for each kind of network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revt_hf.results.curves import MEMBERS, Curve, Curves
from revt_hf.results.figures import ACCENT, GREY, colour, figure, legend_name

_COLUMNS = 3
_PANEL = (3.1, 2.4)
_LEGEND = 0.9
_DASHED = {"ensemble"}


def draw_curves(curves: Curves, path: Path) -> None:
    """Draw mean (line) and population standard deviation (band) of mIoU over severity.

    Args:
        curves: of :func:`revt_hf.results.curves.build_curves`.
        path: the PNG.

    Raises:
        UserError: the file cannot be written.
    """
    panels = list(dict.fromkeys((curve.of, curve.corruption) for curve in curves.curves))
    lines = list(dict.fromkeys((curve.networks, curve.kind) for curve in curves.curves))
    inks = _inks(lines)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width, height = _PANEL[0] * columns + 0.6, _PANEL[1] * rows + _LEGEND
    grid = {"sharex": True, "sharey": True}
    with figure(path, max(width, 4.5), height, rows, columns, **grid) as (drawn, axes):
        several = len({of for of, _ in panels}) > 1
        for number, panel in enumerate(panels):
            axis = axes[number // columns][number % columns]
            _panel(axis, [c for c in curves.curves if (c.of, c.corruption) == panel], inks)
            name = panel[1].replace("_", " ")
            axis.set_title(f"{name}, {panel[0]}" if several else name)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        over = f", {curves.classes}" if curves.classes else ""
        drawn.supylabel(f"mIoU (%{over})", fontsize=10)
        named = [axis.get_legend_handles_labels() for axis in axes.flat]
        legend = {
            name: line for shown, names in named for line, name in zip(shown, names, strict=True)
        }
        of = "" if several else f" of corruption of {panels[0][0]} (0: as it is)"
        drawn.supxlabel(f"severity{of}", fontsize=10)
        place = {"loc": "outside upper center", "ncols": min(3, len(legend))}
        drawn.legend(legend.values(), legend.keys(), **place)


def _inks(lines: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
    """Members are grey, the first merge has the accent, everything else a colour of its own."""
    inks: dict[tuple[str, str | None], str] = {}
    others = 0
    for line in lines:
        name, kind = line
        if name == MEMBERS and kind == "member":
            inks[line] = GREY
        elif kind == "merge" and ACCENT not in inks.values():
            inks[line] = ACCENT
        else:
            inks[line] = colour(others)
            others += 1
    return inks


def _panel(axis: Any, curves: Sequence[Curve], inks: Mapping[tuple[str, str | None], str]) -> None:
    for curve in curves:
        severities = list(curve.points)
        means = [spread.mean for spread in curve.points.values()]
        stds = [spread.std for spread in curve.points.values()]
        ink = inks[curve.networks, curve.kind]
        count = max(len(spread.values) for spread in curve.points.values())
        style = (0, (4, 3)) if curve.kind in _DASHED else "solid"
        label = legend_name(f"{curve.networks} ({count})")
        axis.plot(severities, means, color=ink, linestyle=style, marker="o", ms=3, label=label)
        low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
        axis.fill_between(severities, low, high, color=ink, alpha=0.18, linewidth=0)
    axis.set_xticks(range(6))
