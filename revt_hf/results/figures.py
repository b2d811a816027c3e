"""Figures: the style that all of them share, and curves of mIoU over the severity of corruptions.

Matplotlib is imported when a figure is drawn.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revt_hf.core.errors import UserError, printable
from revt_hf.core.outputs import atomic_file
from revt_hf.data.domains.corruptions import KINDS, NAME, SEVERITIES, Corruption, corruption_of
from revt_hf.evaluation.result import Result
from revt_hf.results.layout import Spread
from revt_hf.results.rows import ScoredNetwork, by_protocol, check_subset, entries_of, protocol_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE = "#1b2129", "#59636f", "#dde1e7"
ACCENT, GREY = "#2f55d4", "#a9b2be"
# In the order of the report page.
COLOURS = ("#d9660a", "#14866a", "#bf3f8a", "#a37a00", "#7b4fb5", "#11849c", "#c23a3a", "#65761a")
_DPI = 110
_STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "legend.frameon": False,
    "text.color": INK,
    # A $ in a name does not start a formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
MEMBERS = "members"
ALL = "mean of all"
_CLEAN = 0
_COLUMNS = 3
_PANEL = (3.1, 2.4)  # inches
_LEGEND = 0.9


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


@contextmanager
def figure(
    path: Path, width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> "Iterator[tuple[Figure, Any]]":
    """Yield a figure and its axes (rows, columns); write it as PNG, atomically, afterwards."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        # Without pyplot nothing depends on a display.
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing, drawing.subplots(rows, columns, squeeze=False, **grid)
        with atomic_file(path) as scratch:
            drawing.savefig(scratch, format="png", dpi=_DPI, facecolor="white")


def short_names(models: Sequence[str]) -> list[str]:
    """Paths without the folders they share, such as ``base/0`` for ``runs/camvid/base/0``."""
    parts = [Path(model).parts for model in models]
    shortest = min(map(len, parts))
    shared = 0
    while shared < shortest - 1 and len({part[shared] for part in parts}) == 1:
        shared += 1
    return [printable("/".join(part[shared:]).removeprefix("//")) for part in parts]


def legend_name(name: str) -> str:
    """A name for a legend, from which matplotlib would omit labels that start with ``_``."""
    return printable(f" {name}" if name.startswith("_") else name)


@dataclass(frozen=True)
class Curve:
    """The mean of some networks over the severity of one corruption."""

    networks: str
    kind: str | None
    of: str
    corruption: str
    points: Mapping[int, Spread]


@dataclass(frozen=True)
class Curves:
    """All curves by one protocol; mIoU averages the subset ``classes``, or all 19 for None."""

    protocol: str
    classes: str | None
    curves: tuple[Curve, ...]

    def to_json(self) -> dict[str, Any]:
        curves = []
        for curve in self.curves:
            points = [
                {"severity": at, "mIoU": one.mean, "std": one.std, "values": list(one.values)}
                for at, one in curve.points.items()
            ]
            curves.append({**vars(curve), "points": points})
        return {"protocol": self.protocol, "classes": self.classes, "curves": curves}


def build_curves(
    results: Sequence[Result], protocol: str | None = None, classes: str | None = None
) -> Curves:
    """The curves of all members and of each other group; several kinds of corruption get a mean."""
    check_subset(classes)
    entries = [e for e in entries_of(by_protocol(results, protocol)) if any(_corruptions(e))]
    if not entries:
        raise UserError(f"no evaluation has scores on the domain '{NAME}'")
    used = [one.result for one in entries]
    names = {one.protocol: protocol_name(one) or one.protocol.text for one in used}
    if len(names) > 1:
        known = ", ".join(names.values())
        raise UserError(f"evaluations are by several protocols ({known}): name one, --protocol")
    groups: dict[tuple[str, str | None], list[ScoredNetwork]] = {}
    for entry in entries:
        one = entry.result
        line = MEMBERS if one.kind == "member" else one.row
        groups.setdefault((line, one.kind), []).append(entry)
    curves = [
        Curve(line, kind, of, corruption, points)
        for (line, kind), group in groups.items()
        for (of, corruption), points in _points(group, classes)
    ]
    if not curves:
        raise UserError(f"no evaluation has scores of {classes}: leave out --classes")
    return Curves(names[used[0].protocol], classes, tuple(curves))


def _points(
    group: Sequence[ScoredNetwork], classes: str | None
) -> Iterator[tuple[tuple[str, str], dict[int, Spread]]]:
    _check_images(group)
    scores = [_scores(entry, classes) for entry in group]
    for of in dict.fromkeys(of for network in scores for of, _ in network):
        kinds = [kind for kind in KINDS if any((of, kind) in network for network in scores)]
        curves: dict[str, list[dict[int, float]]] = {
            kind: [network.get((of, kind), {}) for network in scores] for kind in kinds
        }
        if len(kinds) > 1:
            curves[ALL] = [_mean(same) for same in zip(*curves.values(), strict=True)]
        for kind, networks in curves.items():
            values = {
                severity: tuple(network[severity] for network in networks if severity in network)
                for severity in (_CLEAN, *SEVERITIES)
            }
            points = {severity: Spread(found) for severity, found in values.items() if found}
            yield (of, kind), points


def _scores(entry: ScoredNetwork, classes: str | None) -> dict[tuple[str, str], dict[int, float]]:
    found: dict[tuple[str, str], dict[int, float]] = {}
    for corruption, label in _corruptions(entry):
        value = entry.scores[label].over(classes)
        if value is not None:
            # Several seeds of a corruption would give one network several values.
            by_severity = found.setdefault((corruption.of, corruption.kind), {})
            if corruption.severity in by_severity:
                raise UserError(
                    f"{entry.called(label)} has scores of several seeds of {corruption.kind} "
                    f"{corruption.severity} on {corruption.of}: keep one"
                )
            by_severity[corruption.severity] = value
    for (of, _), by_severity in found.items():
        clean = entry.scores[of].over(classes) if of in entry.scores else None
        if clean is not None:
            by_severity[_CLEAN] = clean
    return found


def _corruptions(entry: ScoredNetwork) -> Iterator[tuple[Corruption, str]]:
    for label, row in entry.scores.items():
        corruption = corruption_of(label) if row.domain == NAME else None
        if corruption is not None:
            yield corruption, label


def _mean(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean of one network's curves at severities that all of them have."""
    shared = set(curves[0]).intersection(*curves)
    return {severity: sum(curve[severity] for curve in curves) / len(curves) for severity in shared}


def _check_images(group: Sequence[ScoredNetwork]) -> None:
    first: dict[str, ScoredNetwork] = {}
    for entry in group:
        for label, row in entry.scores.items():
            other = first.setdefault(label, entry)
            if other.scores[label].images != row.images:
                raise UserError(
                    f"{other.called(label)} and {entry.called(label)} were scored on "
                    f"{other.scores[label].images} and {row.images} images of {label}: keep one"
                )


def draw_curves(curves: Curves, path: Path) -> None:
    """Draw mean (line) and population standard deviation (band) of mIoU over severity."""
    panels = list(dict.fromkeys((curve.of, curve.corruption) for curve in curves.curves))
    lines = list(dict.fromkeys((curve.networks, curve.kind) for curve in curves.curves))
    inks = _inks(lines)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width, height = _PANEL[0] * columns + 0.6, _PANEL[1] * rows + _LEGEND
    with figure(path, max(width, 4.5), height, rows, columns, sharex=True, sharey=True) as made:
        drawn, axes = made
        several = len({of for of, _ in panels}) > 1
        for axis, panel in zip(axes.flat, panels, strict=False):
            _panel(axis, [c for c in curves.curves if (c.of, c.corruption) == panel], inks)
            name = panel[1].replace("_", " ")
            axis.set_title(f"{name}, {panel[0]}" if several else name)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        over = f", {curves.classes}" if curves.classes else ""
        drawn.supylabel(f"mIoU (%{over})", fontsize=10)
        legend: dict[str, Any] = {}
        for axis in axes.flat:
            shown, names = axis.get_legend_handles_labels()
            legend |= zip(names, shown, strict=True)
        of = "" if several else f" of corruption of {panels[0][0]} (0: as it is)"
        drawn.supxlabel(f"severity{of}", fontsize=10)
        shown, names = list(legend.values()), list(legend)
        drawn.legend(shown, names, loc="outside upper center", ncols=min(3, len(names)))


def _inks(lines: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
    """Grey for members, the accent for the first merge, a colour of its own for everything else."""
    inks: dict[tuple[str, str | None], str] = {}
    others = count()
    for line in lines:
        if line == (MEMBERS, "member"):
            inks[line] = GREY
        elif line[1] == "merge" and ACCENT not in inks.values():
            inks[line] = ACCENT
        else:
            inks[line] = colour(next(others))
    return inks


def _panel(axis: Any, curves: Sequence[Curve], inks: Mapping[tuple[str, str | None], str]) -> None:
    for curve in curves:
        severities = list(curve.points)
        means = [spread.mean for spread in curve.points.values()]
        stds = [spread.std for spread in curve.points.values()]
        ink = inks[curve.networks, curve.kind]
        networks = max(len(spread.values) for spread in curve.points.values())
        style = (0, (4, 3)) if curve.kind == "ensemble" else "solid"
        label = legend_name(f"{curve.networks} ({networks})")
        axis.plot(severities, means, color=ink, linestyle=style, marker="o", ms=3, label=label)
        low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
        axis.fill_between(severities, low, high, color=ink, alpha=0.18, linewidth=0)
    axis.set_xticks(range(6))
