"""Merge methods on differences to the base model that the members were fine-tuned from.

How they are called and what they return: ``revt_hf.merging.registry.Method``. All is computed in
float64; finite tensors never give NaN (float64 ones: up to magnitudes of 1e60).
"""

import hashlib

import numpy as np

from revt_hf.core.errors import UserError
from revt_hf.merging.means import Tensors, as_factors, as_first, as_shares, cosine_of
from revt_hf.merging.registry import Array, Parameter, register


@register(
    "task_arithmetic",
    "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023",
    needs_base=True,
    takes_weights=True,
    members=(1, None),
    parameters={
        "scale": Parameter(0.4, -2.0, 2.0, "of the sum of differences; below 0 it takes them away")
    },
)
def task_arithmetic(
    tensors: Tensors, weights: Array | None, base: Array | None, *, scale: float = 0.4
) -> Array:
    """base + scale * sum_i w_i (x_i - base): the sum, not the mean, as in the paper.

    Weights are taken as they are (1 each without): scale 1/n gives the mean of n members.
    """
    start = _start(base)
    total = np.zeros_like(start)
    for factor, tensor in zip(as_factors(weights, len(tensors)), tensors, strict=True):
        total += factor * (tensor - start)
    return as_first(start + scale * total, tensors)


@register(
    "ties",
    "Yadav et al., TIES-Merging, NeurIPS 2023",
    scope="tensor",
    needs_base=True,
    takes_weights=True,
    parameters={
        "density": Parameter(0.2, 0.0, 1.0, "share of the greatest differences that is kept"),
        "scale": Parameter(1.0, 0.0, 3.0, "of the merged differences"),
    },
)
def ties(
    tensors: Tensors,
    weights: Array | None,
    base: Array | None,
    *,
    density: float = 0.2,
    scale: float = 1.0,
) -> Array:
    """base + scale * d, d the mean of the trimmed differences that have the elected sign.

    Trim: of x_i - base the ``density`` greatest magnitudes stay (within this tensor; the paper
    ranks the whole model), the rest is 0. Elect: the sign of sum_i w_i d_i. Merge: the mean, by
    w, over the d_i of that sign; 0 where there is none.
    """
    start = _start(base)
    shares = as_shares(weights, len(tensors))
    differences = [_greatest(tensor - start, density) for tensor in tensors]
    pairs = list(zip(shares, differences, strict=True))
    elected = np.sign(sum(share * difference for share, difference in pairs))
    total, mass = np.zeros_like(start), np.zeros_like(start)
    for share, difference in pairs:
        agrees = np.sign(difference) == elected
        total += share * np.where(agrees, difference, 0)
        mass += share * agrees
    merged = np.divide(total, mass, out=np.zeros_like(start), where=mass > 0)
    return as_first(start + scale * merged, tensors)


@register(
    "dare",
    "Yu et al., Language Models are Super Mario (DARE), ICML 2024",
    scope="tensor",
    needs_base=True,
    takes_weights=True,
    stochastic=True,
    members=(1, None),
    parameters={
        "drop": Parameter(0.5, 0.0, 0.99, "probability that an element's difference is dropped"),
        "scale": Parameter(0.4, -2.0, 2.0, "of the sum of differences, as in task_arithmetic"),
        "seed": Parameter(0, 0, 2**32 - 1, "decides what is dropped", whole=True),
    },
)
def dare(
    tensors: Tensors,
    weights: Array | None,
    base: Array | None,
    *,
    drop: float = 0.5,
    scale: float = 0.4,
    seed: int = 0,
    salt: str = "",
) -> Array:
    """``task_arithmetic`` of thinned differences: m (x - base) / (1 - drop), m = 0 or 1.

    m is 0 with probability ``drop``, drawn for every element of every member anew from ``seed``,
    ``salt`` (the tensor's name) and the member's place: the same on every machine.
    """
    start = _start(base)
    total = np.zeros_like(start)
    for place, factor in enumerate(as_factors(weights, len(tensors))):
        digest = hashlib.sha256(f"{seed} {place} {salt}".encode()).digest()
        # Raw bits, as numpy promises them to stay the same from version to version.
        bits = np.random.PCG64(int.from_bytes(digest)).random_raw(start.size)
        kept = (bits >= np.uint64(int(drop * 2**64))).reshape(start.shape)
        total += (factor / (1 - drop)) * kept * (tensors[place] - start)
    return as_first(start + scale * total, tensors)


@register(
    "wise_ft",
    "Wortsman et al., Robust Fine-Tuning of Zero-Shot Models (WiSE-FT), CVPR 2022",
    needs_base=True,
    takes_weights=True,
    members=(1, None),
    parameters={"alpha": Parameter(0.5, 0.0, 1.0, "0 gives the base, 1 the members' mean")},
)
def wise_ft(
    tensors: Tensors, weights: Array | None, base: Array | None, *, alpha: float = 0.5
) -> Array:
    """(1 - alpha) base + alpha sum_i w_i x_i with w of sum 1."""
    total = (1 - alpha) * _start(base)
    for share, tensor in zip(as_shares(weights, len(tensors)), tensors, strict=True):
        total += (alpha * share) * tensor.astype(np.float64)
    return as_first(total, tensors)


@register(
    "model_stock",
    "Jang et al., Model Stock: All We Need Is Just a Few Fine-Tuned Models, ECCV 2024",
    scope="tensor",
    needs_base=True,
)
def model_stock(tensors: Tensors, weights: Array | None, base: Array | None) -> Array:
    """t mean + (1 - t) base, t = n c / (1 + (n - 1) c), c the mean cosine of all x_i - base pairs.

    Per tensor, as in the paper. A cosine below 0 counts as 0 (t = 0, the base), and so does that
    of a member equal to the base.
    """
    start = _start(base)
    differences = [tensor - start for tensor in tensors]
    count = len(differences)
    cosines = [cosine_of(differences[i], differences[j]) for i in range(count) for j in range(i)]
    cosine = max(0.0, sum(cosines) / len(cosines))
    ratio = count * cosine / (1 + (count - 1) * cosine)
    return as_first(start + ratio * (sum(differences) / count), tensors)


def _start(base: Array | None) -> Array:
    if base is None:
        raise UserError("this merge method needs the base model that the members started from")
    return base.astype(np.float64)


def _greatest(values: Array, density: float) -> Array:
    """The ``density`` greatest magnitudes (equals of the least included); 0 elsewhere."""
    kept = max(round(density * values.size), 1) if density > 0 else 0
    if kept >= values.size:
        return values
    if kept == 0:
        return np.zeros_like(values)
    magnitudes = np.abs(values)
    place = values.size - kept
    return np.where(magnitudes >= np.partition(magnitudes, place, None)[place], values, 0)
