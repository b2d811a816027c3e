"""Scores over all weighted means of three members: a grid on the triangle, coarse to fine."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from revt_hf.analysis.blend_scores import Data, Score, score_heads
from revt_hf.analysis.blending import Blend, Blender
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import write_json

Point = tuple[Fraction, ...]
_FORMAT = "revt_hf.plane_points/1"


def simplex(corners: int, steps: int) -> list[Point]:
    """All weights of sum 1 that are multiples of 1/steps.

    Args:
        corners: how many weights.
        steps: at least 1; 1 gives the corners alone.

    Returns:
        C(steps + corners - 1, corners - 1) points, in order from the first corner to the last.
    """

    def parts(left: int, places: int) -> list[tuple[int, ...]]:
        if places == 1:
            return [(left,)]
        return [
            (one, *rest) for one in range(left, -1, -1) for rest in parts(left - one, places - 1)
        ]

    return [tuple(Fraction(part, steps) for part in point) for point in parts(steps, corners)]


def new_points(levels: Sequence[int], corners: int = 3) -> list[list[Point]]:
    """For each level of steps the points that no level before it has."""
    seen: set[Point] = set()
    fresh = []
    for steps in levels:
        points = [point for point in simplex(corners, steps) if point not in seen]
        seen.update(points)
        fresh.append(points)
    return fresh


@dataclass(frozen=True)
class PlanePoint:
    """Weights of the members, and what each head's blend scores there."""

    weights: Point
    scores: dict[str, Score]

    def to_json(self) -> dict[str, Any]:
        """Weights as fractions in text, which read back exactly."""
        return {
            "weights": [str(weight) for weight in self.weights],
            "heads": {name: score.to_json() for name, score in self.scores.items()},
        }


class FinishedPoints:
    """Scores that were finished before, in a file of their own for these members and data.

    Args:
        folder: the output folder.
        about: what scores depend on: members with their sha256, data.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._about = about
        # A member that moved is still the same member.
        keys = [entry["sha256"] for entry in about["members"]]
        text = json.dumps([keys, about["data"]], sort_keys=True)
        self.path = folder / "points" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        self.points: dict[Point, PlanePoint] = {}
        if self.path.is_file():
            self.points = self._read()

    def add(self, point: PlanePoint) -> None:
        """Keep a point's scores."""
        self.points[point.weights] = point
        rows = [kept.to_json() for kept in self.points.values()]
        write_json(self.path, {"format": _FORMAT, **self._about, "points": rows})

    def _read(self) -> dict[Point, PlanePoint]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            points = [
                PlanePoint(
                    tuple(Fraction(weight) for weight in row["weights"]),
                    {
                        head: Score(float(score["loss"]), float(score["mIoU"]))
                        for head, score in row["heads"].items()
                    },
                )
                for row in content["points"]
            ]
        except (
            *(OSError, ValueError, KeyError, TypeError, AttributeError),
            *(ArithmeticError, RecursionError),
        ) as error:
            raise UserError(
                f"{self.path} is not a file of finished points: delete it to score them again"
            ) from error
        return {point.weights: point for point in points}


def scan(
    blender: Blender,
    data: Data,
    levels: Sequence[int],
    finished: FinishedPoints,
    on_image: Callable[[], object] = lambda: None,
    on_level: Callable[[int, Sequence[PlanePoint]], object] = lambda steps, points: None,
) -> list[PlanePoint]:
    """Score all points of all levels that are not finished yet, with the head of each member.

    Args:
        blender: of three members.
        data: what to score on.
        levels: steps of each grid, coarse to fine.
        finished: scores kept from before; new ones go there as soon as they are known.
        on_image: called after each image of each new point, for a progress bar.
        on_level: called with a level's steps and all points so far, once they are all there.

    Returns:
        The points of all levels.

    Raises:
        UserError: an image cannot be read.
    """
    heads = {str(n + 1): blender.head(n) for n in range(len(blender.members))}
    points: list[PlanePoint] = []
    for steps, fresh in zip(levels, new_points(levels, len(blender.members)), strict=True):
        for weights in fresh:
            if weights not in finished.points:
                blender.blend_encoder(Blend.weighted([float(weight) for weight in weights]))
                scores = score_heads(blender.model, heads, data, on_image)
                finished.add(PlanePoint(weights, scores))
            points.append(finished.points[weights])
        on_level(steps, points)
    return points
