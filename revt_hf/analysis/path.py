"""Loss and mIoU along straight lines between members, and from their initial weights to them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revt_hf.analysis.blending import Blend, Blender, OnImage, ScoringData, score_heads
from revt_hf.core.errors import UserError
from revt_hf.results.figures import ACCENT, colour, figure

INTERPOLATED = "everything"


def barrier(points: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How much worse a line gets than the interpolated scores of its ends, and where.

    Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020;
    measured against the line between the ends as in Entezari et al., ICLR 2022.
    """
    at = [point["at"] for point in points]
    loss, loss_at = _highest(at, [point["loss"] for point in points])
    drop, drop_at = _highest(at, [-point["mIoU"] for point in points])
    return {"loss": loss, "loss_at": loss_at, "mIoU": drop, "mIoU_at": drop_at}


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
    on_image: OnImage = lambda: None,
) -> list[dict[str, Any]]:
    """Score the line between two members, and those from the initial weights, if any, to each.

    A line goes ``from`` ``to`` (numbers of members, or init) with a ``head``, ``at`` 0 to 1;
    ``interpolate_head`` adds lines whose head is interpolated, too.
    """
    if points < 2:
        raise UserError(f"--points {points}: a line has at least two, its ends")
    lines = []
    shares = [step / (points - 1) for step in range(points)]
    for first, last in line_ends(blender.has_init):
        # The head of the initial weights was never trained.
        kept = (1, 2) if first else (last,)
        heads = {str(number): blender.head(number - 1) for number in kept}
        if interpolate_head:
            heads[INTERPOLATED] = blender.head(last - 1)
        scores: dict[str, list[dict[str, float]]] = {name: [] for name in heads}
        for share in shares:
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


def draw_paths(
    lines: Sequence[Mapping[str, Any]], names: Sequence[str], data: str, path: Path
) -> None:
    """Draw loss (top) and mIoU (bottom), a column for each pair of ends.

    Dashed lines interpolate the scores of the ends.
    """
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
