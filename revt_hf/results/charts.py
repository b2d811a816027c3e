"""The charts of the report page as numbers for its template: bars per class, training curves."""

import math
from dataclasses import dataclass

from revt_hf.data.labels import CLASSES, PALETTE, TRAIN_ID
from revt_hf.results.report import Report, TrainingCurve
from revt_hf.results.summary import difference, mean_or_none, shown, signed

_COLOURS = 8
_MAX_POINTS = 300


@dataclass(frozen=True)
class Mark:
    """A model's mark: its CSS class, its name, and its value (0..100) or SVG path."""

    style: str
    model: str
    value: float = 0.0
    path: str = ""


@dataclass(frozen=True)
class ClassBar:
    """The IoU of one class: of the first merge, the members' mean, and a tick per member."""

    name: str
    merge: float
    mean: float
    label: str
    ticks: list[Mark]

    @property
    def values(self) -> tuple[str, str, str]:
        """Merge, mean of members and their difference as text."""
        return shown(self.merge), shown(self.mean), signed(difference(self.merge, self.mean))


@dataclass(frozen=True)
class ClassBars:
    """The bars of all classes, with a note and a key."""

    note: str
    key: list[Mark]
    bars: list[ClassBar]


@dataclass(frozen=True)
class Chart:
    """One chart: a line per model; ticks are (percent of the axis, text)."""

    name: str
    label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Mark]


@dataclass(frozen=True)
class Charts:
    """All training curves, with a key."""

    key: list[Mark]
    charts: list[Chart]
    longest: int | None


def swatch(name: str) -> str | None:
    """A class's Cityscapes colour as CSS; None for another class."""
    if name not in TRAIN_ID:
        return None
    red, green, blue = PALETTE[TRAIN_ID[name]]
    return f"rgb({red} {green} {blue})"


def style_of(report: Report, model: str) -> str:
    """The CSS class that colours a model's marks, the same in all charts."""
    members = report.names("member")
    if model in members:
        return f"c{members.index(model) % _COLOURS}"
    return "accent" if model in report.names("merge") else "grey"


def class_bars(report: Report) -> ClassBars | None:
    """The bars per class; None if there is no merge, no member, or nothing to compare."""
    merges, members = report.names("merge")[:1], report.names("member")
    means = report.class_means([*merges, *members])
    if not merges or not members or not means:
        return None
    known = [name for name in CLASSES if name in means]
    others = sorted(name for name in means if name not in TRAIN_ID)
    over = "the mean over the unseen domains in which every model has a value"
    mean = over if len(report.targets) > 1 else f"on {report.targets[0]}"
    absent = [name for name in CLASSES if name not in means]
    note = f"IoU in %, {mean}. A bar spans 0 to 100 with a line every 25."
    if absent:
        note += f" Without such a value: {', '.join(absent)}."
    plural = "s" if len(members) != 1 else ""
    key = [Mark("accent", merges[0]), Mark("grey", f"mean of {len(members)} member{plural}")]
    key += [Mark(f"tick {style_of(report, name)}", name) for name in members]
    bars = []
    for name in [*known, *others]:
        merge = means[name][merges[0]]
        values = [means[name][member] for member in members]
        average = mean_or_none(values) or 0.0
        pairs = list(zip(members, values, strict=True))
        each = ", ".join(f"{model} {shown(value)}" for model, value in pairs)
        label = f"{name}: {merges[0]} {shown(merge)}, mean of members {shown(average)}; {each}"
        ticks = [Mark(style_of(report, model), model, value) for model, value in pairs]
        bars.append(ClassBar(name, merge, average, label, ticks))
    return ClassBars(f"{note} Numbers: ReVT, mean of members, difference.", key, bars)


def curve_charts(report: Report) -> Charts | None:
    """One chart per name of a curve, one line per model; None without points to draw."""
    last_step = max((step for curve in report.curves for step, _ in curve.points), default=0)
    charts = []
    models: dict[str, None] = {}
    for name in dict.fromkeys(curve.name for curve in report.curves):
        lines = {
            curve.model: points
            for curve in report.curves
            if curve.name == name and (points := _thinned(curve))
        }
        if lines:
            charts.append(_chart(report, name, lines, max(last_step, 1)))
            models |= dict.fromkeys(lines)
    if not charts:
        return None
    key = [Mark(style_of(report, model), model) for model in models]
    long = any(len(curve.points) > _MAX_POINTS for curve in report.curves)
    return Charts(key, charts, _MAX_POINTS if long else None)


def _thinned(curve: TrainingCurve) -> list[tuple[float, float]]:
    """The finite points, at most ``_MAX_POINTS`` of them: means of equally many neighbours."""
    points = [(float(step), value) for step, value in curve.points if math.isfinite(value)]
    if len(points) <= _MAX_POINTS:
        return points
    size = math.ceil(len(points) / _MAX_POINTS)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _chart(
    report: Report, name: str, lines: dict[str, list[tuple[float, float]]], x_span: int
) -> Chart:
    everything = [y for points in lines.values() for _, y in points]
    y_ticks = _ticks(min(everything), max(everything))
    low, span = y_ticks[0], y_ticks[-1] - y_ticks[0]
    marks = []
    for model, points in lines.items():
        spots = [f"{x / x_span * 1000:.1f} {1000 - (y - low) / span * 1000:.1f}" for x, y in points]
        # A line of no length is drawn as a dot, so that a single point is seen.
        path = f"M{' L'.join(spots)}" + (f" L{spots[0]}" if len(spots) == 1 else "")
        marks.append(Mark(style_of(report, model), model, path=path))
    steps = [tick for tick in _ticks(0, x_span) if tick <= x_span]
    ends = ", ".join(f"{model} {points[-1][1]:.3g}" for model, points in lines.items())
    return Chart(
        name,
        f"{name} over training steps; last values: {ends}",
        [(x / x_span * 100, f"{x / 1000:g}k" if x >= 1000 else f"{x:g}") for x in steps],
        [((tick - low) / span * 100, f"{tick:g}") for tick in y_ticks],
        marks,
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
