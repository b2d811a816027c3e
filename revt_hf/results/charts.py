"""The charts of a report page as SVG paths: training curves and reliability diagrams."""

import math
from dataclasses import dataclass

from revt_hf.evaluation.calibration import Calibration
from revt_hf.results.layout import CALIBRATIONS, Cell, Heading, TableLayout, calibration_cells
from revt_hf.results.report import Report, TrainingCurve

MAX_POINTS = 300
# Of the labelled pixels; the accuracy of fewer is noise.
_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class Chart:
    """One chart: an SVG path per model; ticks are (percent of the axis, text)."""

    name: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    paths: dict[str, str]
    last: dict[str, float]


def curve_charts(report: Report) -> list[Chart]:
    """One chart per name of a curve that has points to draw, one line per model."""
    last_step = max((step for curve in report.curves for step, _ in curve.points), default=0)
    charts = []
    for name in dict.fromkeys(curve.name for curve in report.curves):
        curves = [curve for curve in report.curves if curve.name == name]
        lines = {curve.model: points for curve in curves if (points := _thinned(curve))}
        if lines:
            charts.append(_chart(name, lines, max(last_step, 1)))
    return charts


def _thinned(curve: TrainingCurve) -> list[tuple[float, float]]:
    """The finite points, at most ``MAX_POINTS`` of them: means of equally many neighbours."""
    points = [(float(step), value) for step, value in curve.points if math.isfinite(value)]
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _chart(name: str, lines: dict[str, list[tuple[float, float]]], x_span: int) -> Chart:
    everything = [y for points in lines.values() for _, y in points]
    return _drawn(name, lines, x_span, _ticks(min(everything), max(everything)))


def _drawn(
    name: str, lines: dict[str, list[tuple[float, float]]], x_span: int, y_ticks: list[float]
) -> Chart:
    low, span = y_ticks[0], y_ticks[-1] - y_ticks[0]
    paths = {}
    for model, points in lines.items():
        spots = [f"{x / x_span * 1000:.1f} {1000 - (y - low) / span * 1000:.1f}" for x, y in points]
        # A line of no length is drawn as a dot, so that a single point is seen.
        paths[model] = f"M{' L'.join(spots)}" + (f" L{spots[0]}" if len(spots) == 1 else "")
    steps = [tick for tick in _ticks(0, x_span) if tick <= x_span]
    return Chart(
        name,
        [(x / x_span * 100, f"{x / 1000:g}k" if x >= 1000 else f"{x:g}") for x in steps],
        [((tick - low) / span * 100, f"{tick:g}") for tick in y_ticks],
        paths,
        {model: points[-1][1] for model, points in lines.items()},
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


@dataclass(frozen=True)
class ReliabilityDiagram:
    """The calibration of all models on one domain, in percent of pixels and of confidence."""

    domain: str
    accuracy: Chart
    shares: Chart
    scores: TableLayout


def reliability_diagrams(report: Report) -> list[ReliabilityDiagram]:
    """One diagram for each domain on which a model's calibration was measured."""
    diagrams = []
    for domain in report.domains:
        scores = {name: report.score(name, domain) for name in report.names()}
        found = {name: one.calibration for name, one in scores.items() if one and one.calibration}
        if found:
            diagrams.append(_diagram(domain, found))
    return diagrams


def _diagram(domain: str, found: dict[str, Calibration]) -> ReliabilityDiagram:
    accuracy, shares = {}, {}
    for name, one in found.items():
        total, width = sum(held.pixels for held in one.bins), 100 / max(len(one.bins), 1)
        accuracy[name] = [
            (held.confidence, 100 * held.right / held.pixels)
            for held in one.bins
            if held.confidence is not None and held.pixels >= _LEAST_SHARE * total
        ]
        shares[name] = [
            (edge, 100 * held.pixels / total)
            for number, held in enumerate(one.bins)
            for edge in (number * width, (number + 1) * width)
        ]
    return ReliabilityDiagram(
        domain,
        _percent_chart("accuracy (%)", accuracy),
        _percent_chart("share of pixels (%)", shares),
        TableLayout(
            "",
            (Heading("Model", "name"), *(Heading(n, "calibration") for _, n, _ in CALIBRATIONS)),
            tuple((Cell(name), *calibration_cells(one)) for name, one in found.items()),
        ),
    )


def _percent_chart(name: str, lines: dict[str, list[tuple[float, float]]]) -> Chart:
    shown = {model: points for model, points in lines.items() if points}
    return _drawn(name, shown, 100, _ticks(0, 100))
