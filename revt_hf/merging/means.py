"""Merge methods without a base model: means, order statistics, slerp.

:class:`revt_hf.merging.registry.MergeMethod` defines arguments and results. The original's
operations compute in the tensors' dtype and in the given order, so they give the original's bits
(except for the last one of ``power``); everything else is computed in float64. Finite tensors
never give NaN (float64: up to magnitudes of 1e60), but values beyond the dtype's range become
infinite.
"""

from collections.abc import Iterable
from typing import Annotated

import numpy as np

from revt_hf.core.errors import UserError
from revt_hf.merging.registry import Array, Parameter, Tensors, register

_REVT = "Termöhlen et al., ReVT, ICCV Workshops 2023, section 3.2"
_ORIGINAL = "https://github.com/ifnspaml/revt-domain-generalization (model_reparametrization.py)"
_ROBUST = "Yin et al., Byzantine-Robust Distributed Learning, ICML 2018"

# The original replaces zeros by this before taking reciprocals.
_EPSILON = 1e-7
# Above this cosine tensors count as parallel: slerp would divide by a sine near 0.
_PARALLEL = 0.9995


@register("mean", _REVT)
def mean(tensors: Tensors) -> Array:
    """(x_1 + ... + x_n) / n, summed in the given order: bit for bit the original's."""
    total = tensors[0].astype(np.result_type(tensors[0], np.float32))
    with np.errstate(over="ignore"):
        for tensor in tensors[1:]:
            total += tensor
    return as_first(total / len(tensors), tensors)


@register("weighted_mean", f"{_ORIGINAL}, --factors")
def weighted_mean(tensors: Tensors, weights: Array | None) -> Array:
    """sum_i w_i x_i with w divided by its sum, as in the original; without weights ``mean``.

    Negative weights move away from a member; the sum of weights must not be 0.
    """
    if weights is None:
        return mean(tensors)
    shares = as_shares(weights, len(tensors), signed=True)
    # Weights of both signs could add infinities of both signs, which float64 avoids.
    dtype = np.dtype(np.float64) if (shares < 0).any() else tensors[0].dtype
    total = np.zeros(tensors[0].shape, dtype)
    for share, tensor in zip(shares, tensors, strict=True):
        total += dtype.type(share) * tensor
    return as_first(total, tensors)


@register("min", f"{_ORIGINAL}, --operation min")
def minimum(tensors: Tensors) -> Array:
    """min_i x_i with signs (not the smallest magnitude), as in the original."""
    return as_first(np.minimum.reduce(np.stack(tensors)), tensors)


@register("power", f"{_ORIGINAL}, --operation compression")
def power_mean(
    tensors: Tensors,
    weights: Array | None,
    *,
    exponent: Annotated[float, Parameter(0.1, 3.0, "larger ones favour large values")] = 0.9,
) -> Array:
    """s(sum_i w_i s(x_i, p), 1/p) with s(x, p) = sign(x) |x|^p and w of sum 1.

    The original's "compression", whose ``--alpha`` is p. Values and the mean of their powers keep
    their signs. Exponents and powers are rounded to the tensors' dtype, as in the original, but
    torch computes its powers: the last bit may differ.
    """
    powers = (_signed_power(tensor, exponent) for tensor in tensors)
    average = _average(powers, weights, tensors)
    return as_first(_signed_power(average, 1 / exponent), tensors)


@register("harmonic", f"{_ORIGINAL}, --operation compression --alpha -1")
def harmonic_mean(tensors: Tensors, weights: Array | None) -> Array:
    """1 / sum_i (w_i / x_i) with w of sum 1; a zero counts as 1e-7: bit for bit the original's.

    Values of both signs nearly cancel in the sum and give huge results. Where they cancel exactly
    the result is 0 (the original's is 1e7).
    """
    epsilon = tensors[0].dtype.type(_EPSILON)
    with np.errstate(over="ignore", divide="ignore"):
        reciprocals = (1 / np.where(tensor == 0, epsilon, tensor) for tensor in tensors)
        average = _average(reciprocals, weights, tensors)
        return as_first(np.where(average == 0, 0, 1 / average), tensors)


@register("trimmed_mean", _ROBUST, members=(3, None))
def trimmed_mean(
    tensors: Tensors,
    *,
    trim: Annotated[float, Parameter(0.0, 0.49, "share left out at each end")] = 1 / 3,
) -> Array:
    """Mean of x_(k+1) .. x_(n-k), the n values in order; k = floor(trim n), 1 of 3 by default."""
    count = len(tensors)
    # 0.29 * 100 is a little less than 29.
    cut = int(trim * count + 1e-9)
    ordered = np.sort(np.stack(tensors), axis=0)[cut : count - cut]
    return as_first(ordered.mean(axis=0, dtype=np.float64), tensors)


@register("median", _ROBUST)
def median(tensors: Tensors) -> Array:
    """The middle value of each element; of an even number the mean of the two in the middle."""
    ordered = np.sort(np.stack(tensors), axis=0)
    count = len(tensors)
    middle = ordered[(count - 1) // 2 : count // 2 + 1]
    return as_first(middle.mean(axis=0, dtype=np.float64), tensors)


@register(
    "slerp",
    "Shoemake, Animating Rotation with Quaternion Curves, SIGGRAPH 1985",
    scope="tensor",
    members=(2, 2),
)
def slerp(
    tensors: Tensors,
    *,
    t: Annotated[float, Parameter(0.0, 1.0, "0 gives the first member, 1 the second")] = 0.5,
) -> Array:
    """(sin((1-t) a) x + sin(t a) y) / sin(a), a the angle between the whole tensors x and y.

    (1-t) x + t y where they are nearly parallel or opposite (|cos a| > 0.9995) or one is 0.
    """
    first, second = (tensor.astype(np.float64) for tensor in tensors)
    cosine = cosine_of(first, second)
    if first.any() and second.any() and abs(cosine) <= _PARALLEL:
        angle = np.arccos(cosine)
        left, right = np.sin([(1 - t) * angle, t * angle]) / np.sin(angle)
    else:
        left, right = 1 - t, t
    return as_first(left * first + right * second, tensors)


def as_first(values: Array, tensors: Tensors) -> Array:
    """In the first tensor's dtype and shape."""
    with np.errstate(over="ignore"):
        return np.asarray(values, tensors[0].dtype).reshape(tensors[0].shape)


def as_factors(weights: Array | None, count: int) -> Array:
    """One finite number per member, as given; 1 each without weights."""
    factors = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if factors.shape != (count,) or not np.isfinite(factors).all():
        raise UserError(f"{count} members need {count} finite weights, not {factors.tolist()}")
    return factors


def as_shares(weights: Array | None, count: int, signed: bool = False) -> Array:
    """Weights of sum 1."""
    factors = as_factors(weights, count)
    if not signed and (factors < 0).any():
        raise UserError(f"this merge method takes no negative weights: {factors.tolist()}")
    total = factors.sum()
    if not abs(total) > 1e-9 * abs(factors).sum():
        raise UserError(f"the weights must not sum to 0 or to infinity: {factors.tolist()}")
    return factors / total


def cosine_of(first: Array, second: Array) -> float:
    """The cosine of the angle between two whole tensors; 0 if one of them is 0."""
    units = []
    for values in (first.ravel(), second.ravel()):
        peak = np.abs(values).max(initial=0)
        if peak == 0:
            return 0.0
        scaled = values / peak
        units.append(scaled / np.sqrt(scaled @ scaled))
    return float(np.clip(units[0] @ units[1], -1, 1))


def _average(terms: Iterable[Array], weights: Array | None, tensors: Tensors) -> Array:
    """The terms' mean in the first tensor's dtype, in the original's order of operations."""
    dtype, count = tensors[0].dtype, len(tensors)
    shares = np.ones(count) if weights is None else as_shares(weights, count)
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
