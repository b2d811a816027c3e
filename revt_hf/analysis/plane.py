"""Scores over all weighted means of three members: a triangular grid, coarse to fine."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from revt_hf.analysis.blending import Blend, Blender, HeadScore, OnImage, ScoringData, score_heads
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object, write_json
from revt_hf.results.figures import INK, figure

Weights = tuple[Fraction, ...]
_FORMAT = "revt_hf.plane_points/1"
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
_CONTOURS = 14


def simplex(corners: int, steps: int) -> list[Weights]:
    """All weights of sum 1 that are multiples of 1/steps, from the first corner to the last."""

    def parts(left: int, count: int) -> Iterator[tuple[int, ...]]:
        if count == 1:
            yield (left,)
            return
        for one in range(left, -1, -1):
            yield from ((one, *rest) for rest in parts(left - one, count - 1))

    return [tuple(Fraction(part, steps) for part in point) for point in parts(steps, corners)]


def new_points(levels: Sequence[int], corners: int = 3) -> list[list[Weights]]:
    """For each level (number of steps), the points that no earlier level has."""
    seen: set[Weights] = set()
    fresh = []
    for steps in levels:
        fresh.append([point for point in simplex(corners, steps) if point not in seen])
        seen.update(fresh[-1])
    return fresh


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
        """Save a point."""
        self.points[point.weights] = point
        rows = [kept.model_dump(mode="json", by_alias=True) for kept in self.points.values()]
        write_json(self.path, {"format": _FORMAT, **self._about, "points": rows})


def scan(
    blender: Blender,
    data: ScoringData,
    levels: Sequence[int],
    finished: FinishedPoints,
    on_image: OnImage = lambda: None,
) -> Iterator[tuple[int, list[PlanePoint]]]:
    """Score the unfinished points of all levels with the head of each member.

    Yields each level's number of steps with all points so far; scores are saved one by one.
    """
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


def draw_plane(
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
        axis.annotate(
            f"{name}\n{values[index]:.4g}",
            corner,
            xytext=(0, lift),
            textcoords="offset points",
            ha="center",
            va=side,
        )
    axis.set(xlim=(-0.14, 1.14), ylim=(-0.13, 1.0), aspect="equal", xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.grid(False)
    return filled
