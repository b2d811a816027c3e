"""Loss and mIoU along straight lines between members, and from their start to each of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from revt_hf.analysis.blend_scores import Data, Score, score_heads
from revt_hf.analysis.blending import Blend, Blender
from revt_hf.core.errors import UserError

EVERYTHING = "everything"


@dataclass(frozen=True)
class Barrier:
    """How much worse it gets on the way than the straight line between the ends.

    Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020; measured
    against the line between the ends as in Entezari et al., ICLR 2022.

    Attributes:
        loss: the most that the loss is above that line; 0 if it never is.
        loss_at: where, 0 at the first end and 1 at the last.
        miou: the most that the mIoU is below that line, in points.
        miou_at: where.
    """

    loss: float
    loss_at: float
    miou: float
    miou_at: float


@dataclass(frozen=True)
class Line:
    """A way through the weights.

    Attributes:
        first: what it starts from: the number of a member, or 0 for the start.
        last: the number of the member where it ends.
        head: number of the member whose head is used, or ``everything``: the head is
            interpolated, too.
        points: 0 ... 1.
        scores: one a point.
    """

    first: int
    last: int
    head: int | str
    points: tuple[float, ...]
    scores: tuple[Score, ...]

    def barrier(self) -> Barrier:
        """See :class:`Barrier`."""
        loss, loss_at = _highest(self.points, [score.loss for score in self.scores])
        drop, drop_at = _highest(self.points, [-score.miou for score in self.scores])
        return Barrier(loss, loss_at, drop, drop_at)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        barrier = self.barrier()
        return {
            "from": self.first or "init",
            "to": self.last,
            "head": self.head,
            "points": [
                {"at": at, **score.to_json()}
                for at, score in zip(self.points, self.scores, strict=True)
            ],
            "barrier": {
                "loss": barrier.loss,
                "loss_at": barrier.loss_at,
                "mIoU": barrier.miou,
                "mIoU_at": barrier.miou_at,
            },
        }


def _highest(points: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The greatest height above the line between the ends, and where it is."""
    heights = [
        value - (1 - at) * values[0] - at * values[-1]
        for at, value in zip(points, values, strict=True)
    ]
    # A loss that is not a number is no way to go.
    ranked = [math.inf if math.isnan(height) else height for height in heights]
    place = int(np.argmax(ranked))
    return (float(ranked[place]), points[place]) if ranked[place] > 0 else (0.0, points[0])


def ways(start: bool) -> list[tuple[int, int]]:
    """From where to where: between the members, then from the start to each."""
    return [(1, 2), *([(0, 1), (0, 2)] if start else [])]


def paths(
    blender: Blender,
    data: Data,
    points: int,
    start: bool = False,
    everything: bool = False,
    on_image: Callable[[], object] = lambda: None,
) -> list[Line]:
    """Walk from one member to another, and from the start to each if there is one.

    Args:
        blender: of two members, and their start.
        data: what to score on.
        points: on each way, both ends included.
        start: whether the blender has a start.
        everything: also interpolate the heads; otherwise encoders alone.
        on_image: called after each image of each point, for a progress bar.

    Raises:
        UserError: fewer than two points, or an image cannot be read.
    """
    if points < 2:
        raise UserError(f"--points {points}: a way has at least two, its ends")
    lines = []
    at = tuple(place / (points - 1) for place in range(points))
    for first, last in ways(start):
        # Between the members both heads can be kept, to a member its own.
        kept = (1, 2) if first else (last,)
        heads = {str(number): blender.head(number - 1) for number in kept}
        if everything:
            heads[EVERYTHING] = blender.head(last - 1)
        scores: dict[str, list[Score]] = {name: [] for name in heads}
        for share in at:
            blend = _blend(first, last, share)
            blender.blend_encoder(blend)
            if everything:
                blender.blend_head(heads[EVERYTHING], blend)
            for name, score in score_heads(blender.model, heads, data, on_image).items():
                scores[name].append(score)
        lines += [
            Line(first, last, int(name) if name.isdigit() else name, at, tuple(scores[name]))
            for name in heads
        ]
    return lines


def _blend(first: int, last: int, share: float) -> Blend:
    weights = [0.0, 0.0, 0.0]
    # The start comes after the members.
    weights[first - 1 if first else 2] = 1 - share
    weights[last - 1] = share
    return Blend.weighted(weights)
