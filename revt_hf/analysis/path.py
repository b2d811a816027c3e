"""Loss and mIoU along straight lines between members, and from their initial weights to them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from revt_hf.analysis.blending import Blend, Blender, HeadScore, ScoringData, score_heads
from revt_hf.core.errors import UserError
from revt_hf.results.figures import ACCENT, colour, figure

INTERPOLATED = "everything"


@dataclass(frozen=True)
class Barrier:
    """How much worse a line gets than the interpolated scores of its ends.

    Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020; measured
    against the line between the ends as in Entezari et al., ICLR 2022.

    Attributes:
        loss: the largest excess of the loss; 0 if there is none.
        loss_at: where it is, from 0 (first end) to 1 (last end).
        miou: the largest drop of the mIoU, in points; 0 if there is none.
        miou_at: where it is.
    """

    loss: float
    loss_at: float
    miou: float
    miou_at: float


@dataclass(frozen=True)
class Line:
    """Scores on the straight line between two encoders.

    Attributes:
        first: number of the member where it begins; 0 for the initial weights.
        last: number of the member where it ends.
        head: number of the member whose head is used, or ``INTERPOLATED``.
        points: shares of the last end, from 0 to 1.
        scores: one for each point.
    """

    first: int
    last: int
    head: int | str
    points: tuple[float, ...]
    scores: tuple[HeadScore, ...]

    def barrier(self) -> Barrier:
        """The largest excess of loss and drop of mIoU."""
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
                {"at": at, **score.model_dump(by_alias=True)}
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
    """The largest height above the line between the ends, and where it is."""
    heights = [
        value - (1 - at) * values[0] - at * values[-1]
        for at, value in zip(points, values, strict=True)
    ]
    # A loss of NaN is an infinite barrier.
    ranked = [math.inf if math.isnan(height) else height for height in heights]
    index = int(np.argmax(ranked))
    return (float(ranked[index]), points[index]) if ranked[index] > 0 else (0.0, points[0])


def line_ends(with_init: bool) -> list[tuple[int, int]]:
    """Numbers of the ends of each line: between the members, then from the initial weights."""
    return [(1, 2), *([(0, 1), (0, 2)] if with_init else [])]


def paths(
    blender: Blender,
    data: ScoringData,
    points: int,
    interpolate_head: bool = False,
    on_image: Callable[[], object] = lambda: None,
) -> list[Line]:
    """Score the line between two members, and those from the initial weights to each.

    Args:
        blender: of two members, with or without initial weights.
        data: the images.
        points: number of points on each line, both ends included.
        interpolate_head: also score lines whose decode head is interpolated, too.
        on_image: called after each image of each point, for a progress bar.

    Raises:
        UserError: fewer than two points, or an image cannot be read.
    """
    if points < 2:
        raise UserError(f"--points {points}: a line has at least two, its ends")
    lines = []
    shares = tuple(step / (points - 1) for step in range(points))
    for first, last in line_ends(blender.has_init):
        # The head of the initial weights was never trained.
        kept = (1, 2) if first else (last,)
        heads = {str(number): blender.head(number - 1) for number in kept}
        if interpolate_head:
            heads[INTERPOLATED] = blender.head(last - 1)
        scores: dict[str, list[HeadScore]] = {name: [] for name in heads}
        for share in shares:
            blend = _blend(first, last, share)
            blender.blend_encoder(blend)
            if interpolate_head:
                blender.blend_head(heads[INTERPOLATED], blend)
            for name, score in score_heads(blender.model, heads, data, on_image).items():
                scores[name].append(score)
        lines += [
            Line(first, last, int(name) if name.isdigit() else name, shares, tuple(scores[name]))
            for name in heads
        ]
    return lines


def _blend(first: int, last: int, share: float) -> Blend:
    weights = [0.0, 0.0, 0.0]
    # The initial weights come after the members.
    weights[first - 1 if first else 2] = 1 - share
    weights[last - 1] = share
    return Blend.weighted(weights)


def draw_paths(lines: Sequence[Line], names: Sequence[str], data: str, path: Path) -> None:
    """Draw loss (top) and mIoU (bottom), a column for each pair of ends.

    Dashed lines interpolate the scores of the ends.

    Args:
        lines: the result of :func:`paths`.
        names: of the members.
        data: what was scored on.
        path: the PNG.
    """
    columns = list(dict.fromkeys((line.first, line.last) for line in lines))
    with figure(path, 1.2 + 4.2 * len(columns), 6.4, 2, len(columns), sharex=True) as (_, axes):
        axes[0][0].set_ylabel(f"loss on {data}")
        axes[1][0].set_ylabel(f"mIoU on {data} (%)")
        for (loss, miou), (first, last) in zip(axes.T, columns, strict=True):
            for line in lines:
                if (line.first, line.last) == (first, last):
                    label, ink = _appearance(line, names)
                    _draw(loss, line, [score.loss for score in line.scores], ink, label)
                    _draw(miou, line, [score.miou for score in line.scores], ink, None)
            target = names[last - 1]
            loss.set_title(f"{names[first - 1] if first else 'init'} to {target}")
            loss.legend(fontsize=8)
            miou.set_xlabel(f"share of {target} in the weights")


def _appearance(line: Line, names: Sequence[str]) -> tuple[str, str]:
    """The label and the colour of a line."""
    barrier = f"barrier {line.barrier().loss:.3f}"
    if line.head == INTERPOLATED:
        return f"interpolated head: {barrier}", ACCENT
    head = int(line.head) - 1
    return f"head of {names[head]}: {barrier}", colour(head)


def _draw(axis: Any, line: Line, values: Sequence[float], ink: str, label: str | None) -> None:
    axis.plot(line.points, values, color=ink, marker="o", markersize=3.5, label=label)
    axis.plot((0, 1), (values[0], values[-1]), color=ink, linestyle=(0, (4, 3)), linewidth=0.9)
