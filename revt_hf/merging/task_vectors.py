"""Merge methods on differences to the base model that the members were fine-tuned from.

:class:`revt_hf.merging.registry.MergeMethod` defines arguments and results. Everything is
computed in float64; finite tensors never give NaN (float64: up to magnitudes of 1e60).
"""

import hashlib
from typing import Annotated

import numpy as np

from revt_hf.merging.means import as_factors, as_first, as_shares, cosine_of
from revt_hf.merging.registry import Array, Parameter, Tensors, register


@register(
    "task_arithmetic",
    "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023",
    members=(1, None),
)
def task_arithmetic(
    tensors: Tensors,
    weights: Array | None,
    base: Array,
    *,
    scale: Annotated[float, Parameter(-2.0, 2.0, "of the sum of differences")] = 0.4,
) -> Array:
    """base + scale * sum_i w_i (x_i - base): the sum, not the mean, as in the paper.

    Weights are taken as they are (1 each without): scale 1/n gives the mean of n members.
    """
    init = base.astype(np.float64)
    total = np.zeros_like(init)
    for factor, tensor in zip(as_factors(weights, len(tensors)), tensors, strict=True):
        total += factor * (tensor - init)
    return as_first(init + scale * total, tensors)


@register("ties", "Yadav et al., TIES-Merging, NeurIPS 2023", scope="tensor")
def ties(
    tensors: Tensors,
    weights: Array | None,
    base: Array,
    *,
    density: Annotated[float, Parameter(0.0, 1.0, "share of differences that is kept")] = 0.2,
    scale: Annotated[float, Parameter(0.0, 3.0, "of the merged differences")] = 1.0,
) -> Array:
    """base + scale * d, d the mean of the trimmed differences that have the elected sign.

    Trim: the ``density`` greatest magnitudes of x_i - base stay (within this tensor; the paper
    ranks the whole model), the rest becomes 0. Elect: the sign of sum_i w_i d_i. Merge: the mean,
    by w, over the d_i of that sign; 0 where there is none.
    """
    init = base.astype(np.float64)
    shares = as_shares(weights, len(tensors))
    differences = [_greatest(tensor - init, density) for tensor in tensors]
    pairs = list(zip(shares, differences, strict=True))
    elected = np.sign(sum(share * difference for share, difference in pairs))
    total, mass = np.zeros_like(init), np.zeros_like(init)
    for share, difference in pairs:
        agrees = np.sign(difference) == elected
        total += share * np.where(agrees, difference, 0)
        mass += share * agrees
    merged = np.divide(total, mass, out=np.zeros_like(init), where=mass > 0)
    return as_first(init + scale * merged, tensors)


@register(
    "dare",
    "Yu et al., Language Models are Super Mario (DARE), ICML 2024",
    scope="tensor",
    members=(1, None),
)
def dare(
    tensors: Tensors,
    weights: Array | None,
    base: Array,
    salt: str,
    *,
    drop: Annotated[float, Parameter(0.0, 0.99, "probability to drop a difference")] = 0.5,
    scale: Annotated[float, Parameter(-2.0, 2.0, "of the sum of differences")] = 0.4,
    seed: Annotated[int, Parameter(0, 2**32 - 1, "decides which differences are dropped")] = 0,
) -> Array:
    """``task_arithmetic`` of thinned differences: m (x - base) / (1 - drop), m = 0 or 1.

    m is 0 with probability ``drop``, drawn for every element of every member from ``seed``,
    ``salt`` (the tensor's name) and the member's position: the same on every machine.
    """
    init = base.astype(np.float64)
    total = np.zeros_like(init)
    for position, factor in enumerate(as_factors(weights, len(tensors))):
        digest = hashlib.sha256(f"{seed} {position} {salt}".encode()).digest()
        # Raw bits: numpy promises that they stay the same from version to version.
        bits = np.random.PCG64(int.from_bytes(digest)).random_raw(init.size)
        kept = (bits >= np.uint64(int(drop * 2**64))).reshape(init.shape)
        total += (factor / (1 - drop)) * kept * (tensors[position] - init)
    return as_first(init + scale * total, tensors)


@register(
    "wise_ft",
    "Wortsman et al., Robust Fine-Tuning of Zero-Shot Models (WiSE-FT), CVPR 2022",
    members=(1, None),
)
def wise_ft(
    tensors: Tensors,
    weights: Array | None,
    base: Array,
    *,
    alpha: Annotated[float, Parameter(0.0, 1.0, "0 gives the base, 1 the members' mean")] = 0.5,
) -> Array:
    """(1 - alpha) base + alpha sum_i w_i x_i with w of sum 1."""
    total = (1 - alpha) * base.astype(np.float64)
    for share, tensor in zip(as_shares(weights, len(tensors)), tensors, strict=True):
        total += (alpha * share) * tensor.astype(np.float64)
    return as_first(total, tensors)


@register(
    "model_stock",
    "Jang et al., Model Stock: All We Need Is Just a Few Fine-Tuned Models, ECCV 2024",
    scope="tensor",
)
def model_stock(tensors: Tensors, base: Array) -> Array:
    """t mean + (1 - t) base, t = n c / (1 + (n - 1) c), c the mean cosine of all x_i - base pairs.

    Per tensor, as in the paper. A cosine below 0 counts as 0 (t = 0, the base), as does that of
    a member equal to the base.
    """
    init = base.astype(np.float64)
    differences = [tensor - init for tensor in tensors]
    count = len(differences)
    cosines = [cosine_of(differences[i], differences[j]) for i in range(count) for j in range(i)]
    cosine = max(0.0, sum(cosines) / len(cosines))
    ratio = count * cosine / (1 + (count - 1) * cosine)
    return as_first(init + ratio * (sum(differences) / count), tensors)


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
