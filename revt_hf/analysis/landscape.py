"""Loss and mIoU between members: on lines between two, and over the weighted means of three."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from revt_hf.analysis.blending import (
    Blend,
    Blender,
    DiagnoseOptions,
    HeadScore,
    OnImage,
    ScoringData,
    about,
    load_data,
    score_heads,
)
from revt_hf.analysis.choosing import Weights, new_points
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import check_output, growing_folder, read_json_object, write_json
from revt_hf.results.figures import ACCENT, INK, colour, figure, short_names

INTERPOLATED = "everything"
_PLANE_FILES = ("points/*.json", "plane.json", "plane-head-*.png")
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
_CONTOURS = 14


def diagnose_path(
    members: Mapping[str, str],
    options: DiagnoseOptions,
    init: str | None = None,
    points: int = 11,
    interpolate_head: bool = False,
) -> dict[str, Any]:
    """Write ``path.png`` and ``path.json`` (returned): see :func:`paths`."""
    folders = list(members.values())
    if len(folders) != 2:
        raise UserError(f"a path has two ends, not {len(folders)}: name two members")
    data = options.data(*folders, init)
    with Blender(folders, init, init_head=interpolate_head, quiet=options.quiet) as blender:
        data.check(blender.model)
        values = about(data, blender.records())
        lines = 3 if blender.has_init else 1
        with options.progress(lines * points * data.images, "path") as bar:
            values["lines"] = paths(blender, data, points, interpolate_head, bar.update)
    draw = partial(_draw_paths, values["lines"], short_names(list(members)), data.label)
    return options.written("path", values, draw, *folders, init)


def barrier(points: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How much worse a line gets than the interpolated scores of its ends, and where.

    Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020;
    measured against the line between the ends as in Entezari et al., ICLR 2022.
    """
    found = {}
    for measure, sign in (("loss", 1), ("mIoU", -1)):
        ends = points[0][measure], points[-1][measure]
        heights = [
            sign * (point[measure] - (1 - point["at"]) * ends[0] - point["at"] * ends[1])
            for point in points
        ]
        # A loss of NaN is an infinite barrier.
        ranked = [math.inf if math.isnan(height) else height for height in heights]
        index = int(np.argmax(ranked)) if max(ranked) > 0 else 0
        found[measure] = max(0.0, float(ranked[index]))
        found[f"{measure}_at"] = points[index]["at"]
    return found


def paths(
    blender: Blender,
    data: ScoringData,
    points: int,
    interpolate_head: bool = False,
    on_image: OnImage = lambda: None,
) -> list[dict[str, Any]]:
    """Score the line between two members, and those from the initial weights, if any, to each."""
    if points < 2:
        raise UserError(f"--points {points}: a line has at least two, its ends")
    lines = []
    for first, last in [(1, 2), (0, 1), (0, 2)] if blender.has_init else [(1, 2)]:
        # The head of the initial weights was never trained.
        kept = (1, 2) if first else (last,)
        heads = {str(number): blender.head(number - 1) for number in kept}
        if interpolate_head:
            heads[INTERPOLATED] = blender.head(last - 1)
        scores: dict[str, list[dict[str, float]]] = {name: [] for name in heads}
        for share in (step / (points - 1) for step in range(points)):
            weights = [0.0, 0.0, 0.0]
            # The initial weights come after the members.
            weights[first - 1 if first else 2] = 1 - share
            weights[last - 1] = share
            blend = Blend.weighted(weights)
            blender.blend_encoder(blend)
            if interpolate_head:
                blender.blend_head(heads[INTERPOLATED], blend)
            for name, score in score_heads(blender.model, heads, data, on_image).items():
                scores[name].append({"at": share, **score.model_dump(by_alias=True)})
        lines += [
            {
                "from": first or "init",
                "to": last,
                "head": int(name) if name.isdigit() else name,
                "points": scored,
                "barrier": barrier(scored),
            }
            for name, scored in scores.items()
        ]
    return lines


def _draw_paths(
    lines: Sequence[Mapping[str, Any]], names: Sequence[str], data: str, path: Path
) -> None:
    """Draw loss (top) and mIoU (bottom), a column for each pair of ends, barriers dashed."""
    titles: dict[Any, str] = {**dict(enumerate(names, 1)), "init": "init"}
    columns = list(dict.fromkeys((line["from"], line["to"]) for line in lines))
    with figure(path, 1.2 + 4.2 * len(columns), 6.4, 2, len(columns), sharex=True) as (_, axes):
        axes[0][0].set_ylabel(f"loss on {data}")
        axes[1][0].set_ylabel(f"mIoU on {data} (%)")
        for column, (first, last) in zip(axes.T, columns, strict=True):
            for line in lines:
                if (line["from"], line["to"]) != (first, last):
                    continue
                owner, ink = "interpolated head", ACCENT
                if line["head"] != INTERPOLATED:
                    owner, ink = f"head of {titles[line['head']]}", colour(line["head"] - 1)
                label = f"{owner}: barrier {line['barrier']['loss']:.3f}"
                at = [point["at"] for point in line["points"]]
                for axis, measure in zip(column, ("loss", "mIoU"), strict=True):
                    values = [point[measure] for point in line["points"]]
                    axis.plot(at, values, color=ink, marker="o", markersize=3.5, label=label)
                    ends, style = (values[0], values[-1]), (0, (4, 3))
                    axis.plot((0, 1), ends, color=ink, linestyle=style, linewidth=0.9)
            loss, miou = column
            loss.set_title(f"{titles[first]} to {titles[last]}")
            loss.legend(fontsize=8)
            miou.set_xlabel(f"share of {titles[last]} in the weights")


def diagnose_plane(
    members: Mapping[str, str], levels: Sequence[int], options: DiagnoseOptions
) -> dict[str, Any]:
    """Write ``plane.json`` (returned) and a ternary plot for each head of three members.

    Finished points stay in the output folder: the same call resumes where one was interrupted, and
    finer levels (numbers of steps) start from coarser ones. Plots are redrawn after each level.
    """
    folders, names = list(members.values()), short_names(list(members))
    if len(folders) != 3:
        raise UserError(f"a plane has three corners, not {len(folders)}: name three members")
    if not levels or min(levels) < 1:
        raise UserError("--steps: give whole numbers from 1, coarse to fine, such as 4,8")
    inputs = options.inputs(*folders)
    check_output(options.output, True, inputs, _PLANE_FILES)
    data = load_data(options.splits, options.protocol, options.images, options.workers)
    growing = growing_folder(options.output, True, _PLANE_FILES, inputs)
    with Blender(folders, quiet=options.quiet) as blender, growing:
        data.check(blender.model)
        values = about(data, blender.records())
        finished = FinishedPoints(options.output, values)
        left = sum(point not in finished.points for fresh in new_points(levels) for point in fresh)
        with options.progress(left * data.images, "plane") as bar:
            for steps, points in scan(blender, data, levels, finished, bar.update):
                rows = [point.model_dump(mode="json", by_alias=True) for point in points]
                result = {"format": "revt_hf.plane/1", **values, "steps": steps, "points": rows}
                write_json(options.output / "plane.json", result)
                for head in points[0].heads:
                    path = options.output / f"plane-head-{head}.png"
                    _draw_plane(points, head, names, data.label, path)
    return result


class PlanePoint(BaseModel):
    """Weights of the members, and the score of that encoder with each member's head."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    weights: Weights
    heads: dict[str, HeadScore]


class _PointsFile(BaseModel):
    points: list[PlanePoint]


class FinishedPoints:
    """Scored points, kept in one file for each set of members and data (``about``)."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._about = about
        # Paths do not count: a member that moved is the same member.
        keys = [entry["sha256"] for entry in about["members"]]
        text = json.dumps([keys, about["data"]], sort_keys=True)
        self.path = folder / "points" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        self.points: dict[Weights, PlanePoint] = {}
        if self.path.is_file():
            try:
                found = _PointsFile.model_validate(read_json_object(self.path))
            except (UserError, ValidationError) as error:
                raise UserError(
                    f"{self.path} is not a file of finished points: delete it to score them again"
                ) from error
            self.points = {point.weights: point for point in found.points}

    def add(self, point: PlanePoint) -> None:
        self.points[point.weights] = point
        rows = [kept.model_dump(mode="json", by_alias=True) for kept in self.points.values()]
        write_json(self.path, {"format": "revt_hf.plane_points/1", **self._about, "points": rows})


def scan(
    blender: Blender,
    data: ScoringData,
    levels: Sequence[int],
    finished: FinishedPoints,
    on_image: OnImage = lambda: None,
) -> Iterator[tuple[int, list[PlanePoint]]]:
    """Score and save new points with each head; yields each level's steps and all points so far."""
    heads = {str(n + 1): blender.head(n) for n in range(len(blender.members))}
    points: list[PlanePoint] = []
    for steps, fresh in zip(levels, new_points(levels, len(blender.members)), strict=True):
        for weights in fresh:
            if weights not in finished.points:
                blender.blend_encoder(Blend.weighted([float(weight) for weight in weights]))
                scores = score_heads(blender.model, heads, data, on_image)
                finished.add(PlanePoint(weights=weights, heads=scores))
            points.append(finished.points[weights])
        yield steps, points


def _draw_plane(
    points: Sequence[PlanePoint], head: str, names: Sequence[str], data: str, path: Path
) -> None:
    """Draw mIoU and loss with one head over the triangle of the encoders' weights."""
    scores = [point.heads[head] for point in points]
    with figure(path, 11.5, 5.2, 1, 2) as (drawing, axes):
        for axis, title, values, high_is_good, ticks in (
            (axes[0][0], "mIoU (%)", [score.miou for score in scores], True, "%.1f"),
            (axes[0][1], "loss", [score.loss for score in scores], False, "%.3f"),
        ):
            filled = _triangle(axis, points, values, names, high_is_good)
            axis.set_title(title)
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
    at = np.array([[float(weight) for weight in point.weights] for point in points]) @ _CORNERS
    low, high = min(values), max(values)
    if high - low <= 1e-9:
        # A constant plane has no contours.
        low, high = values[0] - 0.5, values[0] + 0.5
    colours = "viridis" if high_is_good else "viridis_r"
    contours = np.linspace(low, high, _CONTOURS)
    filled = axis.tricontourf(*at.T, values, levels=contours, cmap=colours)
    axis.scatter(*at.T, s=6, color="white", edgecolors=INK, linewidths=0.4)
    best = int(np.argmax(values) if high_is_good else np.argmin(values))
    axis.scatter(*at[best], s=120, marker="*", color="#ffffff", edgecolors=INK, zorder=3)
    weights = ", ".join(str(weight) for weight in points[best].weights)
    axis.set_xlabel(f"star: best, {values[best]:.4g} at ({weights})")
    for member, (corner, name) in enumerate(zip(_CORNERS, names, strict=True)):
        index = [point.weights[member] for point in points].index(Fraction(1))
        # The upper corner has its label above it.
        lift, side = (-6, "top") if corner[1] == 0 else (6, "bottom")
        place = {"xytext": (0, lift), "textcoords": "offset points", "ha": "center", "va": side}
        axis.annotate(f"{name}\n{values[index]:.4g}", corner, **place)
    axis.set(xlim=(-0.14, 1.14), ylim=(-0.13, 1.0), aspect="equal", xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.grid(False)
    return filled
