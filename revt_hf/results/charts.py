"""The page's charts as HTML: bars per class, and curves over training steps."""

import math
from collections.abc import Sequence
from html import escape

from revt_hf.data.labels import CLASSES, PALETTE, TRAIN_ID
from revt_hf.results.report import Curve, Report
from revt_hf.results.summary import difference, mean_or_none, shown, signed

_COLOURS = 8
_MAX_POINTS = 300


def swatch(name: str) -> str:
    """A small square in a class's Cityscapes colour; empty for another class."""
    if name not in TRAIN_ID:
        return ""
    red, green, blue = PALETTE[TRAIN_ID[name]]
    return f'<i class="swatch" style="background:rgb({red} {green} {blue})"></i>'


def colour_class(report: Report, model: str) -> str:
    """The CSS class that colours a model's marks, the same in all charts."""
    members = report.names("member")
    if model in members:
        return f"c{members.index(model) % _COLOURS}"
    return "accent" if model in report.names("revt") else "grey"


def class_bars(report: Report) -> str:
    """Per class: the first ReVT and the mean of the members, with a tick per member.

    Returns:
        An HTML fragment; empty if there is no ReVT, no member, or nothing to compare.
    """
    board = report.board()
    averaged, members = report.names("revt")[:1], report.names("member")
    means = board.class_means([*averaged, *members])
    if not averaged or not members or not means:
        return ""
    revt = averaged[0]
    known = [name for name in CLASSES if name in means]
    rows = [_class_row(report, name, revt, means[name]) for name in [*known, *_others(means)]]
    over = "the mean over the unseen domains in which every model has a value"
    mean = over if len(report.targets) > 1 else f"on {report.targets[0]}"
    absent = [name for name in CLASSES if name not in means]
    note = f"IoU in %, {mean}. A bar spans 0 to 100 with a line every 25."
    if absent:
        note += f" Without such a value: {', '.join(absent)}."
    entries = [("mark accent", revt), ("mark grey", f"mean of {_members(len(members))}")]
    entries += [(f"mark tick {colour_class(report, name)}", name) for name in members]
    entries_html = "".join(
        f'<li><i class="{style}"></i>{escape(label)}</li>' for style, label in entries
    )
    return (
        f'<p class="note">{escape(note)} Numbers: ReVT, mean of members, difference.</p>'
        f'<ul class="key">{entries_html}</ul><div class="classes">{"".join(rows)}</div>'
    )


def curve_charts(report: Report) -> str:
    """One chart per name of a curve, one line per model.

    Returns:
        An HTML fragment; empty without points to draw.
    """
    last_step = max((step for curve in report.curves for step, _ in curve.points), default=0)
    charts = []
    models: list[str] = []
    for name in dict.fromkeys(curve.name for curve in report.curves):
        lines = {
            curve.model: points
            for curve in report.curves
            if curve.name == name and (points := _thinned(_finite(curve)))
        }
        if lines:
            charts.append(_chart(report, name, lines, last_step))
            models += [model for model in lines if model not in models]
    if not charts:
        return ""
    key = "".join(
        f'<li><i class="mark {colour_class(report, model)}"></i>{escape(model)}</li>'
        for model in models
    )
    note = ""
    if any(len(curve.points) > _MAX_POINTS for curve in report.curves):
        note = (
            f'<p class="note">Curves with more than {_MAX_POINTS} points are drawn as means over '
            "equal numbers of steps.</p>"
        )
    return f'{note}<ul class="key">{key}</ul><div class="curves">{"".join(charts)}</div>'


def _members(count: int) -> str:
    return f"{count} member{'s' if count != 1 else ''}"


def _others(means: dict[str, dict[str, float]]) -> list[str]:
    return sorted(name for name in means if name not in TRAIN_ID)


def _class_row(report: Report, name: str, revt: str, means: dict[str, float]) -> str:
    members = {model: value for model, value in means.items() if model != revt}
    mean = mean_or_none(list(members.values())) or 0.0
    spoken = ", ".join(f"{model} {shown(value)}" for model, value in members.items())
    label = f"{name}: {revt} {shown(means[revt])}, mean of members {shown(mean)}; {spoken}"
    ticks = "".join(
        f'<i class="tick {colour_class(report, model)}" style="left:{value:.2f}%"'
        f' title="{escape(model)}: {shown(value)}"></i>'
        for model, value in members.items()
    )
    return (
        f'<div class="class"><span class="name">{swatch(name)}{escape(name)}</span>'
        f'<span class="track" role="img" aria-label="{escape(label)}">'
        f'<i class="bar accent" style="width:{means[revt]:.2f}%"></i>'
        f'<i class="bar grey" style="width:{mean:.2f}%"></i>{ticks}</span>'
        f'<span class="values"><b>{shown(means[revt])}</b><span>{shown(mean)}</span>'
        f"<span>{signed(difference(means[revt], mean))}</span></span></div>"
    )


def _finite(curve: Curve) -> list[tuple[float, float]]:
    return [(float(step), value) for step, value in curve.points if math.isfinite(value)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` points: means of equally many neighbours."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / _MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _chart(
    report: Report, name: str, lines: dict[str, list[tuple[float, float]]], last_step: int
) -> str:
    everything = [point for points in lines.values() for point in points]
    y_ticks = _ticks(min(y for _, y in everything), max(y for _, y in everything))
    x_span = max(last_step, 1)
    x_ticks = [tick for tick in _ticks(0, x_span) if tick <= x_span]
    y_low, y_span = y_ticks[0], y_ticks[-1] - y_ticks[0]

    paths = []
    for model, points in lines.items():
        spots = [
            f"{x / x_span * 1000:.1f} {1000 - (y - y_low) / y_span * 1000:.1f}" for x, y in points
        ]
        # A line of no length is drawn as a dot, so that a single point is seen.
        path = f"M{' L'.join(spots)}" + (f" L{spots[0]}" if len(spots) == 1 else "")
        paths.append(
            f'<path class="{colour_class(report, model)}" d="{path}">'
            f"<title>{escape(model)}</title></path>"
        )
    grid = "".join(
        f'<hr style="bottom:{(tick - y_low) / y_span * 100:.2f}%">'
        f'<span class="y" style="bottom:{(tick - y_low) / y_span * 100:.2f}%">{tick:g}</span>'
        for tick in y_ticks
    )
    grid += "".join(
        f'<span class="x" style="left:{tick / x_span * 100:.2f}%">{_step(tick)}</span>'
        for tick in x_ticks
    )
    ends = ", ".join(f"{model} {points[-1][1]:.3g}" for model, points in lines.items())
    label = f"{name} over training steps; last values: {ends}"
    return (
        f"<figure><figcaption><h3>{escape(name)}</h3></figcaption>"
        f'<div class="plot">{grid}<span class="axis">training step</span>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(label)}">{"".join(paths)}</svg></div></figure>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, 3 to 7 of them, that enclose ``low..high``."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _step(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
