"""Calibration of a network's confidence: the scores, from counts of pixels; without torch."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from revt_hf.config.yaml_files import Section

Percent = Annotated[float, Field(ge=0, le=100)]
Amount = Annotated[float, Field(ge=0)]
# Small enough to become a float.
Whole = Annotated[int, Field(ge=0, le=10**18)]

# Of equal width, as Guo et al. (2017) have them.
RELIABILITY_BINS = 15
# Confidence is ranked by its log-odds, which tell 0.999999 from 0.9999999: from those of one class
# in 256 to those of 1 - 4e-18.
LOWEST_ODDS, HIGHEST_ODDS, BINS_PER_UNIT = -6, 40, 4096
RANK_BINS = (HIGHEST_ODDS - LOWEST_ODDS) * BINS_PER_UNIT
WRONG, RIGHT = 0, 1

Counts = NDArray[np.int64]


class ReliabilityBin(Section):
    """Pixels of similar confidence: how many, how many of them are right, their mean confidence."""

    pixels: Whole
    right: Whole
    confidence: Percent | None = None

    @model_validator(mode="after")
    def _possible(self) -> "ReliabilityBin":
        if self.right > self.pixels or (self.confidence is None) == bool(self.pixels):
            raise ValueError(
                f"{self.right} of {self.pixels} pixels are right, with a mean confidence of "
                f"{self.confidence}: this cannot be"
            )
        return self


class Calibration(Section):
    """How well confidence tells how often, and where, a network is right.

    Attributes:
        ece: expected calibration error over ``RELIABILITY_BINS`` bins of equal width, in percent.
        brier: the mean over pixels of the squared error of all probabilities, 0..2.
        nll: negative log-likelihood of the labels in nats per pixel; None where it is infinite, as
            a labelled class has no counterpart among the model's.
        auroc: of confidence, for right against wrong pixels, in percent; None without one of both.
        aurc: area under the risk-coverage curve, in percent.
        bins: what a reliability diagram shows, in the order of confidence.
    """

    ece: Percent
    brier: Annotated[float, Field(ge=0, le=2)]
    nll: Amount | None
    auroc: Percent | None
    aurc: Percent
    bins: tuple[ReliabilityBin, ...] = ()

    @model_validator(mode="after")
    def _counted(self) -> "Calibration":
        if self.bins and not any(one.pixels for one in self.bins):
            raise ValueError("its bins hold no pixel")
        return self


def calibration_of(
    ranked: Counts, binned: Counts, confidence: NDArray[np.float64], brier: float, nats: float
) -> Calibration:
    """The scores of sums over pixels.

    Args:
        ranked: wrong and right pixels (2, ``RANK_BINS``) by the log-odds of their confidence.
        binned: the same pixels (2, ``RELIABILITY_BINS``) by their confidence.
        confidence: the sum of the confidence (0..1) in each bin (``RELIABILITY_BINS``,).
        brier: the sum of the pixels' Brier scores.
        nats: the sum of their negative log-likelihoods.
    """
    pixels, right = binned.sum(0), binned[RIGHT]
    total = int(pixels.sum())
    return Calibration(
        ece=100 * float(np.abs(right - confidence).sum() / total),
        brier=min(max(brier / total, 0.0), 2.0),
        nll=max(nats / total, 0.0) if np.isfinite(nats) else None,
        auroc=area_under_roc(ranked),
        aurc=area_under_risk_coverage(ranked),
        bins=tuple(
            ReliabilityBin(
                pixels=int(count),
                right=int(hits),
                confidence=min(100 * float(held / count), 100.0) if count else None,
            )
            for count, hits, held in zip(pixels, right, confidence, strict=True)
        ),
    )


def area_under_roc(ranked: Counts) -> float | None:
    """The chance that a right pixel is more confident than a wrong one, a tie counting half.

    In percent; None without right or wrong pixels. Pixels of one bin count as ties: this is off by
    at most half the share of the pairs of a right and a wrong pixel that are in one bin.
    """
    wrong, right = ranked.astype(np.float64)
    pairs = wrong.sum() * right.sum()
    if not pairs:
        return None
    above = right.sum() - right.cumsum()
    return 100 * float((wrong * (above + right / 2)).sum() / pairs)


def area_under_risk_coverage(ranked: Counts) -> float:
    """The mean, over k, of the share of wrong pixels among the k most confident, in percent.

    Pixels of one bin count as ties, and a tie as the mean over its orders: with w wrong and r right
    pixels in a bin below b others, of n in all, this is off by at most the sum over bins of
    w r / (2 (b + 1) n).

    Reference: Geifman et al., "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers",
    ICLR 2019.
    """
    wrong, right = ranked[:, ::-1]
    held = (wrong + right) > 0
    wrong, pixels = wrong[held].astype(np.float64), (wrong + right)[held].astype(np.float64)
    after = pixels.cumsum()
    before, missed = after - pixels, wrong.cumsum() - wrong
    # The sum over j = 1..m of (E + j w / m) / (b + j), E being the wrong ones of the b before.
    share = wrong / pixels
    sums = wrong + (missed - before * share) * (_harmonic(after) - _harmonic(before))
    return 100 * min(max(float(sums.sum() / after[-1]), 0.0), 1.0)


def _harmonic(n: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 + 1/2 + ... + 1/n, up to a constant; by the series of the digamma function from 16 on."""
    x = n + 16
    series = np.log(x) + 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4) - 1 / (252 * x**6)
    below: NDArray[np.float64] = sum((1 / (n + k) for k in range(1, 17)), np.zeros_like(n))
    return series - below
