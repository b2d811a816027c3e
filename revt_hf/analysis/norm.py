"""How far the decode head's BatchNorm statistics are from those of the features it gets."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import SegformerForSemanticSegmentation

from revt_hf.analysis.blending import OnImage, ScoringData
from revt_hf.core.processes import process_state
from revt_hf.merging.recalibration import measured_statistics, recalibrate_model
from revt_hf.models.load import load_model
from revt_hf.results.figures import ACCENT, INK, colour, figure, legend_name

Kind = Literal["member", "merge", "recalibrated"]
_TITLES = {
    "mean_shift": "shift of the mean, in running standard deviations",
    "log_variance_ratio": "ln(measured variance / running variance)",
}


def norm_shift(
    model: SegformerForSemanticSegmentation,
    name: str,
    kind: Kind,
    data: ScoringData,
    on_image: OnImage = lambda: None,
) -> dict[str, Any]:
    """The running statistics of a model, in eval mode, against those of its own features.

    For each channel, ``mean_shift`` is (measured - running mean) / running standard deviation and
    ``log_variance_ratio`` ln(measured / running variance); with ``eps``, as in the layer.
    """
    layer: Any = model.decode_head.batch_norm
    rows = itertools.chain.from_iterable(data.rows)
    mean, variance = (
        statistic.numpy() for statistic in measured_statistics(model, rows, data.protocol, on_image)
    )
    running_mean, running_variance = (
        statistic.detach().double().cpu().numpy()
        for statistic in (layer.running_mean, layer.running_var)
    )
    channels = {
        "mean_shift": (mean - running_mean) / np.sqrt(running_variance + layer.eps),
        "log_variance_ratio": np.log((variance + layer.eps) / (running_variance + layer.eps)),
    }
    shift: dict[str, Any] = {"model": name, "kind": kind}
    for field, values in channels.items():
        shift[f"{field}_rms"] = float(np.sqrt(np.mean(values**2)))
        shift[f"{field}_max"] = float(np.abs(values).max())
    return shift | {field: values.tolist() for field, values in channels.items()}


def norm_shifts(
    merge: str,
    members: Sequence[str],
    data: ScoringData,
    training: Any,
    on_image: OnImage = lambda: None,
) -> list[dict[str, Any]]:
    """Measure a merge, the merge recalibrated on rows of ``training``, and its members.

    One model is in memory at a time; each member's statistics belong to its own encoder.
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


def draw_norm(
    shifts: Sequence[Mapping[str, Any]], names: Sequence[str], data: str, path: Path
) -> None:
    """Draw the shifts of means and the ratios of variances over the channels, sorted."""
    members = [shift for shift in shifts if shift["kind"] == "member"]
    with figure(path, 12, 4.8, 1, 2) as (drawing, axes):
        for axis, (field, title) in zip(axes[0], _TITLES.items(), strict=True):
            for shift, name in zip(shifts, names, strict=True):
                kind = shift["kind"]
                if kind == "member":
                    ink, width = colour(members.index(shift)), 1.2
                else:
                    ink, width = ACCENT if kind == "merge" else INK, 2.2
                label = kind if kind == "recalibrated" else name
                label = legend_name(f"{label} (rms {shift[f'{field}_rms']:.2f})")
                share = np.linspace(0, 100, len(shift[field]))
                axis.plot(share, sorted(shift[field]), color=ink, linewidth=width, label=label)
            axis.axhline(0, color=INK, linewidth=0.6)
            axis.set_ylabel(title)
            axis.set_xlabel("channels, sorted (%)")
            axis.legend(fontsize=8)
        drawing.suptitle(f"Statistics of the decode head's BatchNorm on {data}")
