"""From probabilities of pixels to the sums that calibration is scored by: on the device."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.label_space import IGNORE_INDEX
from revt_hf.evaluation.calibration import (
    BINS_PER_UNIT,
    LOWEST_ODDS,
    RANK_BINS,
    RELIABILITY_BINS,
    Calibration,
    calibration_of,
)
from revt_hf.evaluation.predictor import ClassMapSegmenter, Segmenter
from revt_hf.models.networks import family_of_model

_TINY = torch.finfo(torch.float32).tiny
_PIXELS = 2  # wrong, right


def check_probabilities(segmenters: Mapping[str, Segmenter]) -> None:
    """Refuse networks without probabilities of pixels."""
    for name, segmenter in segmenters.items():
        if isinstance(segmenter, ClassMapSegmenter):
            raise UserError(f"{name} makes class maps without probabilities: leave out calibration")
        for family in (family_of_model(model) for model in segmenter.models):
            if family.masks:
                raise UserError(
                    f"{name} ({family.title}) has scores of masks, which are no probabilities of a "
                    "pixel's classes: leave out calibration"
                )


@dataclass
class ConfidenceSums:
    """Counts of labelled pixels, and sums over them; those of several images add up.

    Attributes:
        ranked, binned, confidence: see :func:`calibration_of`; confidence is float64.
        errors: the sums of the Brier scores and of the nats (2,), float64.
    """

    ranked: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((_PIXELS, RANK_BINS), np.int64)
    )
    binned: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((_PIXELS, RELIABILITY_BINS), np.int64)
    )
    confidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros(RELIABILITY_BINS))
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def calibration(self) -> Calibration:
        return calibration_of(self.ranked, self.binned, self.confidence, *self.errors)

    @torch.inference_mode()
    def add(
        self,
        labels: NDArray[np.uint8],
        predictions: NDArray[np.uint8],
        strips: Iterable[torch.Tensor],
        classes: int,
        table: NDArray[np.uint8] | None = None,
    ) -> None:
        """Count an image.

        Args:
            labels: ids of classes (H, W), 255 for ignored pixels.
            predictions: ids of classes (H, W); with a table 255, too, for none of these.
            strips: probabilities (C, rows, W), float32, of strips from top to bottom.
            classes: how many classes labels have.
            table: the id (256,) by that of each of the C classes, if they are others; 255 where
                there is none. Probabilities of one id are summed.
        """
        planes, top = [], 0
        for strip in strips:
            rows = slice(top, top + strip.shape[1])
            truth, guess = (
                torch.from_numpy(one[rows]).to(strip.device) for one in (labels, predictions)
            )
            ids = None
            if table is not None:
                own = np.minimum(table[: len(strip)], classes).astype(np.int64)
                ids = torch.from_numpy(own).to(strip.device)
            planes.append(_planes(strip, truth, guess, ids, classes))
            top = rows.stop
        self._add(torch.cat(planes, dim=1), labels, predictions)

    def _add(
        self, planes: torch.Tensor, labels: NDArray[np.uint8], predictions: NDArray[np.uint8]
    ) -> None:
        # Apple's GPUs have no float64.
        planes = planes.cpu() if planes.device.type == "mps" else planes
        truth, guess = (torch.from_numpy(p).to(planes.device) for p in (labels, predictions))
        counts, right = truth != IGNORE_INDEX, (truth == guess).long()
        odds, confidence, *errors = planes
        rank = ((odds - LOWEST_ODDS) * BINS_PER_UNIT).long().clamp(0, RANK_BINS - 1)
        # Bins hold their upper edge.
        bin_of = (confidence * RELIABILITY_BINS).ceil().long().sub(1).clamp(0, RELIABILITY_BINS - 1)
        found = [
            _counted(right * RANK_BINS + rank, counts, _PIXELS * RANK_BINS),
            _counted(right * RELIABILITY_BINS + bin_of, counts, _PIXELS * RELIABILITY_BINS),
        ]
        sums = [
            _counted(bin_of, counts, RELIABILITY_BINS, confidence),
            *(error.where(counts, 0).sum(dtype=torch.float64)[None] for error in errors),
        ]
        integers, floats = torch.cat(found).cpu().numpy(), torch.cat(sums).cpu().numpy()
        ranked, binned = np.split(integers, [_PIXELS * RANK_BINS])
        self.ranked += ranked.reshape(self.ranked.shape)
        self.binned += binned.reshape(self.binned.shape)
        self.confidence += floats[:RELIABILITY_BINS]
        self.errors += floats[RELIABILITY_BINS:]


def _counted(
    places: torch.Tensor, counts: torch.Tensor, size: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Pixels, or the sum of their weights in float64, by their place (H, W); ignored ones not."""
    flat = places.where(counts, size).flatten()
    of_each = None if weights is None else weights.flatten().double()
    return torch.bincount(flat, of_each, minlength=size + 1)[:-1]


def _planes(
    probabilities: torch.Tensor,
    labels: torch.Tensor,
    predictions: torch.Tensor,
    table: torch.Tensor | None,
    classes: int,
) -> torch.Tensor:
    """Log-odds of the confidence, confidence, Brier score and nats (4, rows, W) of a strip."""
    if table is not None:
        shape = (classes + 1, *probabilities.shape[1:])
        probabilities = probabilities.new_zeros(shape).index_add_(0, table, probabilities)
    # Ignored pixels get any class; they are not counted.
    truth = labels.long().clamp(max=classes - 1)[None]
    guess = predictions.long().clamp(max=len(probabilities) - 1)[None]
    of_truth = probabilities.gather(0, truth)[0]
    confidence = probabilities.gather(0, guess)[0].clamp(_TINY, 1)
    brier = probabilities.square().sum(0) - 2 * of_truth + 1
    nats = -of_truth.clamp(min=_TINY).log()
    if table is not None:
        possible = torch.zeros(classes + 1, dtype=torch.bool, device=table.device)
        possible[table] = True
        nats = nats.where(possible[truth[0]], torch.inf)
    # Near 1, what is left of the confidence is only exact as the sum of all others.
    others = probabilities.scatter(0, guess, 0).sum(0).clamp(min=_TINY)
    return torch.stack([confidence.log() - others.log(), confidence, brier, nats])
