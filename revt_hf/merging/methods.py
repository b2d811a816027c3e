"""The built-in merge methods; :class:`revt_hf.merging.registry.MergeMethod` is their interface.

The original's operations compute in the tensors' dtype and order, so they give the original's bits
(except for the last one of ``power``); everything else is computed in float64. Finite tensors never
give NaN (float64: up to 1e60), but values beyond the dtype's range become infinite.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated

import numpy as np

from revt_hf.core.errors import UserError
from revt_hf.merging.registry import Array, Parameter, Tensors, register

Weights = Array | None

_REVT = "Termöhlen et al., ReVT, ICCV Workshops 2023, section 3.2"
_ORIGINAL = "https://github.com/ifnspaml/revt-domain-generalization (model_reparametrization.py)"
_MOMENTS = "Li et al., Training-Free Model Merging for Multi-target Domain Adaptation, ECCV 2024"
_ROBUST = "Yin et al., Byzantine-Robust Distributed Learning, ICML 2018"
_SLERP = "Shoemake, Animating Rotation with Quaternion Curves, SIGGRAPH 1985"
_ARITHMETIC = "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023"
_TIES = "Yadav et al., TIES-Merging, NeurIPS 2023"
_DARE = "Yu et al., Language Models are Super Mario (DARE), ICML 2024"
_WISE_FT = "Wortsman et al., Robust Fine-Tuning of Zero-Shot Models (WiSE-FT), CVPR 2022"
_STOCK = "Jang et al., Model Stock: All We Need Is Just a Few Fine-Tuned Models, ECCV 2024"

Exponent = Annotated[float, Parameter(0.1, 3.0, "larger ones favour large values")]
Trim = Annotated[float, Parameter(0.0, 0.49, "share left out at each end")]
Position = Annotated[float, Parameter(0.0, 1.0, "0 gives the first member, 1 the second")]
SumScale = Annotated[float, Parameter(-2.0, 2.0, "of the sum of differences")]
Density = Annotated[float, Parameter(0.0, 1.0, "share of differences that is kept")]
MergedScale = Annotated[float, Parameter(0.0, 3.0, "of the merged differences")]
Drop = Annotated[float, Parameter(0.0, 0.99, "probability to drop a difference")]
Seed = Annotated[int, Parameter(0, 2**32 - 1, "decides which differences are dropped")]
Alpha = Annotated[float, Parameter(0.0, 1.0, "0 gives the base, 1 the members' mean")]

# The original replaces zeros by this before taking reciprocals.
_EPSILON = 1e-7
# Above this cosine tensors count as parallel: slerp would divide by a sine near 0.
_PARALLEL = 0.9995


@register("mean", _REVT)
def mean(tensors: Tensors) -> Array:
    """(x_1 + ... + x_n) / n, summed in the given order: bit for bit the original's."""
    total = tensors[0].copy()
    with np.errstate(over="ignore"):
        for tensor in tensors[1:]:
            total += tensor
    return np.asarray(total / len(tensors))


@register("weighted_mean", f"{_ORIGINAL}, --factors")
def weighted_mean(tensors: Tensors, weights: Weights) -> Array:
    """sum_i w_i x_i with w divided by its sum, as in the original; without weights ``mean``.

    Negative weights move away from a member; the sum of weights must not be 0.
    """
    if weights is None:
        return mean(tensors)
    shares = _shares(weights, len(tensors), signed=True)
    # Weights of both signs could add infinities of both signs, which float64 avoids.
    dtype = np.dtype(np.float64) if (shares < 0).any() else tensors[0].dtype
    total = np.zeros(tensors[0].shape, dtype)
    for share, tensor in zip(shares, tensors, strict=True):
        total += dtype.type(share) * tensor
    return total


@register("moments", _MOMENTS)
def moments(tensors: Tensors, weights: Weights, means: Tensors | None) -> Array:
    """``weighted_mean``; of BatchNorm's running variances that of the mixture of members.

    sum_i w_i (v_i + (m_i - m)^2), m_i the running means beside them and m = sum_i w_i m_i.
    """
    shares = _shares(weights, len(tensors))
    if means is None:
        return weighted_mean(tensors, weights)
    centres = np.stack(means).astype(np.float64)
    spread = np.stack(tensors) + (centres - np.average(centres, 0, shares)) ** 2
    return np.asarray(np.average(spread, 0, shares))


@register("min", f"{_ORIGINAL}, --operation min")
def minimum(tensors: Tensors) -> Array:
    """min_i x_i with signs (not the smallest magnitude), as in the original."""
    return np.asarray(np.minimum.reduce(np.stack(tensors)))


@register("power", f"{_ORIGINAL}, --operation compression")
def power_mean(tensors: Tensors, weights: Weights, *, exponent: Exponent = 0.9) -> Array:
    """s(sum_i w_i s(x_i, p), 1/p) with s(x, p) = sign(x) |x|^p and w of sum 1.

    The original's "compression", whose ``--alpha`` is p. Values and the mean of their powers keep
    their signs. Exponents and powers are rounded to the tensors' dtype, as in the original, but
    torch computes its powers: the last bit may differ.
    """
    powers = (_signed_power(tensor, exponent) for tensor in tensors)
    return _signed_power(_average(powers, weights, tensors), 1 / exponent)


@register("harmonic", f"{_ORIGINAL}, --operation compression --alpha -1")
def harmonic_mean(tensors: Tensors, weights: Weights) -> Array:
    """1 / sum_i (w_i / x_i) with w of sum 1; a zero counts as 1e-7: bit for bit the original's.

    Values of both signs nearly cancel in the sum and give huge results. Where they cancel exactly
    the result is 0 (the original's is 1e7).
    """
    epsilon = tensors[0].dtype.type(_EPSILON)
    with np.errstate(over="ignore", divide="ignore"):
        reciprocals = (1 / np.where(tensor == 0, epsilon, tensor) for tensor in tensors)
        average = _average(reciprocals, weights, tensors)
        return np.where(average == 0, 0, 1 / average)


@register("trimmed_mean", _ROBUST, members=(3, None))
def trimmed_mean(tensors: Tensors, *, trim: Trim = 1 / 3) -> Array:
    """Mean of x_(k+1) .. x_(n-k), the n values in order; k = floor(trim n), 1 of 3 by default."""
    # 0.29 * 100 is a little less than 29.
    cut = int(trim * len(tensors) + 1e-9)
    ordered = np.sort(np.stack(tensors), axis=0)[cut : len(tensors) - cut]
    return np.asarray(ordered.mean(axis=0, dtype=np.float64))


@register("median", _ROBUST)
def median(tensors: Tensors) -> Array:
    """The middle value of each element; of an even number the mean of the two in the middle."""
    ordered = np.sort(np.stack(tensors), axis=0)
    middle = ordered[(len(tensors) - 1) // 2 : len(tensors) // 2 + 1]
    return np.asarray(middle.mean(axis=0, dtype=np.float64))


@register("slerp", _SLERP, scope="tensor", members=(2, 2))
def slerp(tensors: Tensors, *, t: Position = 0.5) -> Array:
    """(sin((1-t) a) x + sin(t a) y) / sin(a), a the angle between the whole tensors x and y.

    (1-t) x + t y where they are nearly parallel or opposite (|cos a| > 0.9995) or one is 0.
    """
    first, second = (tensor.astype(np.float64) for tensor in tensors)
    left, right = 1 - t, t
    cosine = _cosine(first, second)
    if first.any() and second.any() and abs(cosine) <= _PARALLEL:
        angle = np.arccos(cosine)
        left, right = np.sin([(1 - t) * angle, t * angle]) / np.sin(angle)
    return left * first + right * second


@register("task_arithmetic", _ARITHMETIC, members=(1, None))
def task_arithmetic(
    tensors: Tensors, weights: Weights, base: Array, *, scale: SumScale = 0.4
) -> Array:
    """base + scale * sum_i w_i (x_i - base): the sum, not the mean, as in the paper.

    Weights are taken as they are (1 each without): scale 1/n gives the mean of n members.
    """
    total = np.zeros_like(base)
    for factor, tensor in zip(_factors(weights, len(tensors)), tensors, strict=True):
        total += factor * (tensor - base)
    return base + scale * total


@register("ties", _TIES, scope="tensor")
def ties(
    tensors: Tensors,
    weights: Weights,
    base: Array,
    *,
    density: Density = 0.2,
    scale: MergedScale = 1.0,
) -> Array:
    """base + scale * d, d the mean of the trimmed differences that have the elected sign.

    Trim: the ``density`` greatest magnitudes of x_i - base stay (within this tensor; the paper
    ranks the whole model), the rest becomes 0. Elect: the sign of sum_i w_i d_i. Merge: the mean,
    by w, over the d_i of that sign; 0 where there is none.
    """
    differences = [_greatest(tensor - base, density) for tensor in tensors]
    pairs = list(zip(_shares(weights, len(tensors)), differences, strict=True))
    elected = np.sign(sum(share * difference for share, difference in pairs))
    total, mass = np.zeros_like(base), np.zeros_like(base)
    for share, difference in pairs:
        agrees = np.sign(difference) == elected
        total += share * np.where(agrees, difference, 0)
        mass += share * agrees
    return base + scale * np.divide(total, mass, out=np.zeros_like(base), where=mass > 0)


@register("dare", _DARE, scope="tensor", members=(1, None))
def dare(
    tensors: Tensors,
    weights: Weights,
    base: Array,
    salt: str,
    *,
    drop: Drop = 0.5,
    scale: SumScale = 0.4,
    seed: Seed = 0,
) -> Array:
    """``task_arithmetic`` of thinned differences: m (x - base) / (1 - drop), m = 0 or 1.

    m is 0 with probability ``drop``, drawn for every element of every member from ``seed``,
    ``salt`` (the tensor's name) and the member's position: the same on every machine.
    """
    total = np.zeros_like(base)
    for position, factor in enumerate(_factors(weights, len(tensors))):
        digest = hashlib.sha256(f"{seed} {position} {salt}".encode()).digest()
        # Raw bits: numpy promises that they stay the same from version to version.
        bits = np.random.PCG64(int.from_bytes(digest)).random_raw(base.size)
        kept = (bits >= np.uint64(int(drop * 2**64))).reshape(base.shape)
        total += (factor / (1 - drop)) * kept * (tensors[position] - base)
    return base + scale * total


@register("wise_ft", _WISE_FT, members=(1, None))
def wise_ft(tensors: Tensors, weights: Weights, base: Array, *, alpha: Alpha = 0.5) -> Array:
    """(1 - alpha) base + alpha sum_i w_i x_i with w of sum 1."""
    total = (1 - alpha) * base
    for share, tensor in zip(_shares(weights, len(tensors)), tensors, strict=True):
        total += (alpha * share) * tensor.astype(np.float64)
    return np.asarray(total)


@register("model_stock", _STOCK, scope="tensor")
def model_stock(tensors: Tensors, base: Array) -> Array:
    """t mean + (1 - t) base, t = n c / (1 + (n - 1) c), c the mean cosine of all x_i - base pairs.

    Per tensor, as in the paper. A cosine below 0 counts as 0 (t = 0, the base), as does that of
    a member equal to the base.
    """
    differences = [tensor - base for tensor in tensors]
    count = len(differences)
    cosines = [_cosine(differences[i], differences[j]) for i in range(count) for j in range(i)]
    cosine = max(0.0, sum(cosines) / len(cosines))
    ratio = count * cosine / (1 + (count - 1) * cosine)
    return base + ratio * (sum(differences) / count)


def _factors(weights: Weights, count: int) -> Array:
    """One finite number per member, as given; 1 each without weights."""
    factors = np.ones(count) if weights is None else weights
    if factors.shape != (count,) or not np.isfinite(factors).all():
        raise UserError(f"{count} members need {count} finite weights, not {factors.tolist()}")
    return factors


def _shares(weights: Weights, count: int, signed: bool = False) -> Array:
    """Weights of sum 1."""
    factors = _factors(weights, count)
    if not signed and (factors < 0).any():
        raise UserError(f"this merge method takes no negative weights: {factors.tolist()}")
    total = factors.sum()
    if not abs(total) > 1e-9 * abs(factors).sum():
        raise UserError(f"the weights must not sum to 0 or to infinity: {factors.tolist()}")
    return factors / total


def _average(terms: Iterable[Array], weights: Weights, tensors: Tensors) -> Array:
    """The terms' mean in the first tensor's dtype, in the original's order of operations."""
    dtype, count = tensors[0].dtype, len(tensors)
    shares = np.ones(count) if weights is None else _shares(weights, count)
    # Sums of clipped terms stay finite: infinities of both signs would give NaN.
    limit = np.finfo(dtype).max / dtype.type(2 * count)
    total = np.zeros(tensors[0].shape, dtype)
    for share, term in zip(shares, terms, strict=True):
        total += dtype.type(share) * np.clip(term, -limit, limit).astype(dtype)
    return np.asarray(total / count if weights is None else total)


def _signed_power(values: Array, exponent: float) -> Array:
    """In float64, with the exponent rounded to the values' dtype."""
    rounded = float(values.dtype.type(exponent))
    return np.copysign(np.abs(values.astype(np.float64)) ** rounded, values)


def _cosine(first: Array, second: Array) -> float:
    """Of the angle between two whole tensors; 0 if one of them is 0."""
    units = []
    for values in (first.ravel(), second.ravel()):
        peak = np.abs(values).max(initial=0)
        if peak == 0:
            return 0.0
        # Scaled, so that squares of tiny numbers do not vanish.
        scaled = values / peak
        units.append(scaled / np.sqrt(scaled @ scaled))
    return float(np.clip(units[0] @ units[1], -1, 1))


def _greatest(values: Array, density: float) -> Array:
    """The ``density`` greatest magnitudes (ties with the smallest included); 0 elsewhere."""
    kept = max(round(density * values.size), 1) if density > 0 else 0
    if kept >= values.size:
        return values
    if kept == 0:
        return np.zeros_like(values)
    magnitudes = np.abs(values)
    position = values.size - kept
    return np.where(magnitudes >= np.partition(magnitudes, position, None)[position], values, 0)
