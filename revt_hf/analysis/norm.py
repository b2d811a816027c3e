"""How far the decode head's BatchNorm statistics are from those of the features it gets."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import SegformerForSemanticSegmentation

from revt_hf.analysis.blending import ScoringData
from revt_hf.core.processes import process_state
from revt_hf.merging.recalibration import measured_statistics, recalibrate_model
from revt_hf.models.load import load_model
from revt_hf.results.figures import ACCENT, INK, colour, figure, legend_name

Channels = NDArray[np.float64]
Kind = Literal["member", "merge", "recalibrated"]


@dataclass(frozen=True, eq=False)
class NormShift:
    """Running statistics of a model against those of its own features, for each channel.

    The layer's ``eps`` is added to all variances, as the layer itself does.

    Attributes:
        model: its path or name.
        kind: a member, the merge, or the recalibrated merge.
        mean_shift: (measured mean - running mean) / running standard deviation.
        log_variance_ratio: natural logarithm of measured / running variance.
    """

    model: str
    kind: Kind
    mean_shift: Channels
    log_variance_ratio: Channels

    def summary(self) -> dict[str, float]:
        """Root mean squares and largest magnitudes over the channels."""
        return {
            "mean_shift_rms": _rms(self.mean_shift),
            "mean_shift_max": float(np.abs(self.mean_shift).max()),
            "log_variance_ratio_rms": _rms(self.log_variance_ratio),
            "log_variance_ratio_max": float(np.abs(self.log_variance_ratio).max()),
        }

    def to_json(self) -> dict[str, Any]:
        """The summary, and one value for each channel."""
        return {
            "model": self.model,
            "kind": self.kind,
            **self.summary(),
            "mean_shift": self.mean_shift.tolist(),
            "log_variance_ratio": self.log_variance_ratio.tolist(),
        }


def _rms(values: Channels) -> float:
    return float(np.sqrt(np.mean(values**2)))


def norm_shift(
    model: SegformerForSemanticSegmentation,
    name: str,
    kind: Kind,
    data: ScoringData,
    on_image: Callable[[], object] = lambda: None,
) -> NormShift:
    """Measure one model on all images.

    Args:
        model: in eval mode.
        name: of the model in the result.
        kind: see :class:`NormShift`.
        data: the images; labels are not used.
        on_image: called after each image, for a progress bar.
    """
    layer = model.decode_head.batch_norm
    rows = itertools.chain.from_iterable(data.rows)
    mean, variance = (
        statistic.numpy() for statistic in measured_statistics(model, rows, data.protocol, on_image)
    )
    running_mean, running_variance = (
        statistic.detach().double().cpu().numpy()
        for statistic in (layer.running_mean, layer.running_var)
    )
    return NormShift(
        model=name,
        kind=kind,
        mean_shift=(mean - running_mean) / np.sqrt(running_variance + layer.eps),
        log_variance_ratio=np.log((variance + layer.eps) / (running_variance + layer.eps)),
    )


def norm_shifts(
    merge: str,
    members: Sequence[str],
    data: ScoringData,
    training: Any,
    on_image: Callable[[], object] = lambda: None,
) -> list[NormShift]:
    """Measure a merge before and after recalibration, and its members, one model at a time.

    Args:
        merge: a folder or Hub ID.
        members: its members, whose statistics belong to their own encoders.
        data: the images to measure on.
        training: rows of source images to recalibrate on; not those of ``data``.
        on_image: called after each image of each pass, for a progress bar.

    Raises:
        UserError: a model cannot be read.
    """
    model = load_model(merge).to(process_state().device)
    shifts = [norm_shift(model, merge, "merge", data, on_image)]
    recalibrate_model(model, training, data.protocol, on_image)
    shifts.append(norm_shift(model, merge, "recalibrated", data, on_image))
    for member in members:
        del model
        model = load_model(member).to(process_state().device)
        shifts.append(norm_shift(model, member, "member", data, on_image))
    return shifts


def draw_norm(shifts: Sequence[NormShift], names: Sequence[str], data: str, path: Path) -> None:
    """Draw the shifts of means and the ratios of variances over the channels, sorted.

    Args:
        shifts: the result of :func:`norm_shifts`.
        names: of their models.
        data: what was measured on.
        path: the PNG.
    """
    panels = (
        ("mean_shift", "shift of the mean, in running standard deviations"),
        ("log_variance_ratio", "ln(measured variance / running variance)"),
    )
    members = [shift for shift in shifts if shift.kind == "member"]
    with figure(path, 12, 4.8, 1, 2) as (drawing, axes):
        for axis, (field, title) in zip(axes[0], panels, strict=True):
            for shift, name in zip(shifts, names, strict=True):
                if shift.kind == "member":
                    ink, width = colour(members.index(shift)), 1.2
                else:
                    ink, width = ACCENT if shift.kind == "merge" else INK, 2.2
                values = np.sort(getattr(shift, field))
                share = np.arange(len(values)) / max(len(values) - 1, 1) * 100
                what = "recalibrated" if shift.kind == "recalibrated" else name
                label = legend_name(f"{what} (rms {_rms(getattr(shift, field)):.2f})")
                axis.plot(share, values, color=ink, linewidth=width, label=label)
            axis.axhline(0, color=INK, linewidth=0.6)
            axis.set_ylabel(title)
            axis.set_xlabel("channels, sorted (%)")
            axis.legend(fontsize=8)
        drawing.suptitle(f"Statistics of the decode head's BatchNorm on {data}")
