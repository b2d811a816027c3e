"""How far the decode head's BatchNorm statistics are from what the encoder really gives it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import SegformerForSemanticSegmentation

from revt_hf.analysis.blend_scores import Data
from revt_hf.core.processes import process_state
from revt_hf.merging.recalibration import measured_statistics, recalibrate_model
from revt_hf.models.load import load_model

Channels = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NormShift:
    """One model's running statistics against those of its own features, channel by channel.

    ``eps`` of the layer is added to all variances, as the layer itself does.

    Attributes:
        model: as given.
        kind: ``member``, ``merge`` or ``recalibrated``.
        mean_shift: (measured mean - running mean) / running standard deviation.
        log_variance_ratio: natural logarithm of measured / running variance.
    """

    model: str
    kind: str
    mean_shift: Channels
    log_variance_ratio: Channels

    def summary(self) -> dict[str, float]:
        """Root mean squares and greatest magnitudes over the channels."""
        return {
            "mean_shift_rms": _rms(self.mean_shift),
            "mean_shift_max": float(np.abs(self.mean_shift).max()),
            "log_variance_ratio_rms": _rms(self.log_variance_ratio),
            "log_variance_ratio_max": float(np.abs(self.log_variance_ratio).max()),
        }

    def to_json(self) -> dict[str, Any]:
        """Summary, and a number a channel."""
        return {
            "model": self.model,
            "kind": self.kind,
            **self.summary(),
            "mean_shift": self.mean_shift.tolist(),
            "log_variance_ratio": self.log_variance_ratio.tolist(),
        }


def norm_shift(
    model: SegformerForSemanticSegmentation,
    name: str,
    kind: str,
    data: Data,
    on_image: Callable[[], object] = lambda: None,
) -> NormShift:
    """Measure one model on all images of the data.

    Args:
        model: in eval mode.
        name: what the result calls it.
        kind: see :class:`NormShift`.
        data: the images; labels are not looked at.
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
    data: Data,
    training: Any,
    on_image: Callable[[], object] = lambda: None,
) -> list[NormShift]:
    """Measure a merge before and after its recalibration, and its members; one at a time.

    Args:
        merge: a folder or Hub id.
        members: what it was merged from: how far statistics are off that belong to their encoder.
        data: the images to measure on.
        training: rows of source images to recalibrate on; others than those of ``data``.
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


def _rms(values: Channels) -> float:
    return float(np.sqrt(np.mean(values**2)))
