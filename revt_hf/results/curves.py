"""Generalisation curves: mIoU over the severity of corruptions, members against their merges."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.core.errors import UserError
from revt_hf.data.domains.corruptions import (
    KINDS,
    NAME,
    SEVERITIES,
    Corruption,
    corruption_of,
)
from revt_hf.evaluation.result import Result
from revt_hf.results.figures import ACCENT, GREY, colour, figure, legend_name
from revt_hf.results.rows import ScoredNetwork, by_protocol, check_subset, entries_of, protocol_name
from revt_hf.results.summary import Spread

MEMBERS = "members"
ALL = "mean of all"
_CLEAN = 0
_COLUMNS = 3
_PANEL = (3.1, 2.4)  # inches
_LEGEND = 0.9


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
        """The object that ``revt curves --json`` writes."""
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
    """The curves of results on the ``corruptions`` domain.

    All members together form one line, and so does every other group, with mean and spread over
    its networks, seeds and heads. ``mean of all`` averages the kinds of corruption, if a network
    was scored on several.
    """
    check_subset(classes)
    entries = [e for e in entries_of(by_protocol(results, protocol)) if any(_corruptions(e))]
    if not entries:
        raise UserError(f"no evaluation has scores on the domain '{NAME}'")
    names = {entry.protocol: _protocol(entry) for entry in entries}
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
    return Curves(names[entries[0].protocol], classes, tuple(curves))


def _protocol(entry: ScoredNetwork) -> str:
    return protocol_name(entry.result) or entry.protocol.text


def _points(
    group: Sequence[ScoredNetwork], classes: str | None
) -> Iterator[tuple[tuple[str, str], dict[int, Spread]]]:
    """The points of a group's curves, kinds in their order and the mean of all last."""
    _check_images(group)
    scores = [_scores(entry, classes) for entry in group]
    for of in dict.fromkeys(of for network in scores for of, _ in network):
        kinds = [kind for kind in KINDS if any((of, kind) in network for network in scores)]
        for kind in kinds:
            yield (of, kind), _spread([network.get((of, kind), {}) for network in scores])
        if len(kinds) > 1:
            means = [_mean([network.get((of, kind), {}) for kind in kinds]) for network in scores]
            yield (of, ALL), _spread(means)


def _scores(entry: ScoredNetwork, classes: str | None) -> dict[tuple[str, str], dict[int, float]]:
    """mIoU of one network by severity, by the corrupted split and the kind."""
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


def _spread(networks: Sequence[Mapping[int, float]]) -> dict[int, Spread]:
    values = {
        severity: tuple(network[severity] for network in networks if severity in network)
        for severity in (_CLEAN, *SEVERITIES)
    }
    return {severity: Spread(found) for severity, found in values.items() if found}


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
        place: dict[str, Any] = {"loc": "outside upper center", "ncols": min(3, len(legend))}
        drawn.legend(list(legend.values()), list(legend), **place)


def _inks(lines: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
    """Grey for members, the accent for the first merge, a colour of its own for everything else."""
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
        style = (0, (4, 3)) if curve.kind == "ensemble" else "solid"
        label = legend_name(f"{curve.networks} ({count})")
        axis.plot(severities, means, color=ink, linestyle=style, marker="o", ms=3, label=label)
        low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
        axis.fill_between(severities, low, high, color=ink, alpha=0.18, linewidth=0)
    axis.set_xticks(range(6))
