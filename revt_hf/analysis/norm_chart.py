"""The plot of BatchNorm's shifted statistics."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from revt_hf.analysis.norm import NormShift
from revt_hf.results.figures import ACCENT, INK, colour, figure, legend_name


def draw_norm(shifts: Sequence[NormShift], names: Sequence[str], data: str, path: Path) -> None:
    """Draw each model's shift of means and ratio of variances over the channels, in rising order.

    Args:
        shifts: see :func:`revt_hf.analysis.norm.norm_shifts`.
        names: of their models.
        data: what was measured on, in words.
        path: the PNG.
    """
    panels = (
        ("mean_shift", "shift of the mean, in running standard deviations"),
        ("log_variance_ratio", "ln(measured variance / running variance)"),
    )
    with figure(path, 12, 4.8, 1, 2) as (drawing, axes):
        for axis, (field, label) in zip(axes[0], panels, strict=True):
            members = 0
            for shift, name in zip(shifts, names, strict=True):
                ink, width = {"merge": (ACCENT, 2.2), "recalibrated": (INK, 2.2)}.get(
                    shift.kind, (colour(members), 1.2)
                )
                members += shift.kind == "member"
                values = np.sort(getattr(shift, field))
                what = "recalibrated" if shift.kind == "recalibrated" else name
                rms = shift.summary()[f"{field}_rms"]
                share = np.arange(len(values)) / max(len(values) - 1, 1) * 100
                text = legend_name(f"{what} (rms {rms:.2f})")
                axis.plot(share, values, color=ink, linewidth=width, label=text)
            axis.axhline(0, color=INK, linewidth=0.6)
            axis.set_ylabel(label)
            axis.set_xlabel("channels in rising order (%)")
            axis.legend(fontsize=8)
        drawing.suptitle(f"Statistics of the decode head's BatchNorm on {data}")
