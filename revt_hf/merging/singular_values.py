"""Merge methods by singular values, for members that share a ``base``; NumPy alone.

The differences D_i = x_i - base of a tensor are matrices (out, everything else), so those of a
convolution are (out, in * kh * kw). Vectors, and matrices with fewer rows or columns than there are
members, get the mean of D_i. Everything is computed in float64.

Singular vectors come from the Gram matrix (``eigh``) where the singular values that are needed lie
within a factor of 1000, and from LAPACK's SVD elsewhere; docs/merging.md has error and time. What
is smaller than the rounding of the members' dtype counts as 0 and gets no direction: its singular
vectors are arbitrary.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np

from revt_hf.merging.methods import MergedScale
from revt_hf.merging.registry import Array, Parameter, Tensors, register

_TSV = "Gargiulo et al., Task Singular Vectors, CVPR 2025 (arXiv 2412.00081)"
_ISO = "Marczak et al., No Task Left Behind, ICML 2025 (arXiv 2502.04959)"
_SCORE = "Chaves et al., Subspace-Aware Model Merging (SCORE), CVPR 2026 (arXiv 2603.05768)"

Common = Annotated[float, Parameter(0.0, 1.0, "share of singular vectors that are common")]
Cutoff = Annotated[float, Parameter(0.0, 100.0, "standard deviations, times the members' number")]

# The Gram matrix squares the singular values, and float64 holds 16 digits of them.
_SQUARED_RANGE = 1e-6
# Below these lies rounding: shares of a matrix's norm in float64, and of the largest singular value
# where members' singular vectors are equal.
_ROUNDING, _PARALLEL = 1e-12, 1e-6
# NumPy has no bfloat16: 8 significant bits.
_BFLOAT16 = 2.0**-7

# U (m, t), S (t), V (t, k) of a matrix (m, k): the leading triplets that are not empty.
Triplets = tuple[Array, Array, Array]
# From the differences (m, k) and the singular value that counts as 0 to a difference (m, k).
Merger = Callable[[Sequence[Array], float], Array]


@register("tsv_m", _TSV, scope="tensor")
def tsv_m(tensors: Tensors, base: Array, *, scale: MergedScale = 1.0) -> Array:
    """base + scale * U diag(S) V, of the leading singular triplets of all D_i side by side.

    Each member gives floor(r / n), r the smaller side of the matrix; U and V are replaced by the
    nearest matrices with orthonormal columns and rows.
    """

    def merged(differences: Sequence[Array], empty: float) -> Array:
        U, S, V = _side_by_side(differences, empty)
        return (U * S) @ V

    return _merged_by_matrix(tensors, base, scale, merged)


@register("iso_c", _ISO, scope="tensor")
def iso_c(tensors: Tensors, base: Array, *, scale: MergedScale = 1.0) -> Array:
    """base + scale * s U V, U diag(S) V the SVD of the sum of D_i and s the mean of S."""

    def merged(differences: Sequence[Array], empty: float) -> Array:
        rank = min(differences[0].shape)
        U, S, V = _leading(np.sum(differences, 0), rank, empty * len(differences))
        return (S.sum() / rank) * (U @ V)

    return _merged_by_matrix(tensors, base, scale, merged)


@register("iso_cts", _ISO, scope="tensor")
def iso_cts(
    tensors: Tensors, base: Array, *, common: Common = 0.8, scale: MergedScale = 1.0
) -> Array:
    """base + scale * s U V, of the common and of each member's own singular triplets.

    Common are the leading c of the sum of D_i, c about ``common`` r; a member's own are the leading
    (r - c) / n of D_i without its projection on the common left vectors. U and V are replaced by
    the nearest matrices with orthonormal columns and rows, s is the mean of all S.
    """

    def merged(differences: Sequence[Array], empty: float) -> Array:
        rank, count = min(differences[0].shape), len(differences)
        # Every member has the same number of its own.
        own = min(round((rank - int(common * rank)) / count), rank // count)
        shared = _leading(np.sum(differences, 0), rank - own * count, empty * count)
        left = shared[0]
        rests = (one - left @ (left.T @ one) for one in differences)
        U, S, V = _joined([*(_leading(rest, own, empty) for rest in rests), shared])
        return (S.sum() / rank) * (_nearest(U) @ _nearest(V.T).T)

    return _merged_by_matrix(tensors, base, scale, merged)


@register("score", _SCORE, scope="tensor")
def score(
    tensors: Tensors, base: Array, *, cutoff: Cutoff = 1.96, scale: MergedScale = 1.0
) -> Array:
    """base + scale * U (sum_i M_i) V, M_i the trimmed U^T D_i V^T, in the basis of ``tsv_m``.

    Off its diagonal, M_i keeps what differs by at most ``cutoff``/n standard deviations from the
    mean, both over the whole matrix with a diagonal of zeros. It is the sum of members, as in the
    paper: ``scale`` 1/n gives their mean.

    The mean depends on the signs of singular vectors, which are arbitrary: here the largest element
    of each column of U is positive. Where n does not divide r, the authors fill the basis with
    whatever LAPACK returns; here it has n floor(r / n) directions.
    """

    def merged(differences: Sequence[Array], empty: float) -> Array:
        U, _, V = _side_by_side(differences, empty)
        largest = np.take_along_axis(U, np.abs(U).argmax(0, keepdims=True), 0)[0]
        return _trimmed(differences, U * np.sign(largest), np.sign(largest)[:, None] * V, cutoff)

    return _merged_by_matrix(tensors, base, scale, merged)


def _trimmed(differences: Sequence[Array], U: Array, V: Array, cutoff: float) -> Array:
    """U (sum_i M_i) V of :func:`score`."""
    total = np.zeros((U.shape[1], V.shape[0]))
    for difference in differences:
        inner = U.T @ difference @ V.T
        diagonal = np.diag(np.diag(inner))
        others = inner - diagonal
        # One direction has nothing off its diagonal.
        if len(others) > 1:
            limit = cutoff * others.std(ddof=1) / len(differences)
            others = np.where(np.abs(others - others.mean()) <= limit, others, 0)
        total += diagonal + others
    return np.asarray(U @ total @ V)


def _merged_by_matrix(tensors: Tensors, base: Array, scale: float, merger: Merger) -> Array:
    """base + scale * D, D of the differences as matrices, or their mean where that has no sense."""
    count = len(tensors)
    differences = [tensor - base for tensor in tensors]
    # Unlike Python's, its maximum of NaN is NaN.
    peak = np.max([np.abs(one).max(initial=0) for one in differences])
    rows = len(base) if base.ndim > 1 else 0
    if peak == 0 or min(rows, base.size // max(rows, 1)) < count:
        return np.asarray(base + scale * (sum(differences) / count))
    if not np.isfinite(peak):
        # One bad element is in every singular vector.
        return np.full_like(base, np.nan)
    # Scaled, so that squares of tiny numbers do not vanish.
    matrices = [one.reshape(rows, -1) / peak for one in differences]
    # A matrix of such rounding errors has about this norm.
    error = max(_rounding(tensor) * _root_mean_square(tensor) for tensor in tensors)
    empty = error / peak * sum(map(np.sqrt, matrices[0].shape))
    # What a projection leaves of a matrix may be nothing but rounding.
    merged = merger(matrices, max(empty, _ROUNDING * max(map(np.linalg.norm, matrices))))
    return np.asarray(base + (scale * peak) * merged.reshape(base.shape))


def _rounding(values: Array) -> float:
    """Relative rounding of the narrowest dtype that holds values: files' 16 bits are widened."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
        is_single = np.array_equal(single, values)
        is_half = is_single and np.array_equal(single.astype(np.float16), single)
    if is_single and not (single.view(np.uint32) & 0xFFFF).any():
        return _BFLOAT16
    kind = np.float16 if is_half else np.float32 if is_single else values.dtype
    return float(np.finfo(kind).eps)


def _root_mean_square(values: Array) -> float:
    peak = float(np.abs(values).max(initial=0))
    return peak * float(np.sqrt(np.mean(np.square(values / peak, dtype=np.float64)))) if peak else 0


def _side_by_side(differences: Sequence[Array], empty: float) -> Triplets:
    """The floor(r / n) leading triplets of each, made orthonormal as a whole."""
    count = min(differences[0].shape) // len(differences)
    U, S, V = _joined([_leading(one, count, empty) for one in differences])
    return _nearest(U), S, _nearest(V.T).T


def _joined(triplets: Sequence[Triplets]) -> Triplets:
    U, S, V = zip(*triplets, strict=True)
    return np.hstack(U), np.concatenate(S), np.vstack(V)


def _leading(matrix: Array, count: int, empty: float) -> Triplets:
    """Its ``count`` leading triplets, without those whose singular values count as 0."""
    if matrix.shape[0] > matrix.shape[1]:
        U, S, V = _leading(matrix.T, count, empty)
        return V.T, S, U.T
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)
    squares, U = squares[::-1][:count], vectors[:, ::-1][:, :count]
    if count and squares[-1] > _SQUARED_RANGE * squares[0]:
        S = np.sqrt(squares)
        V = (U.T @ matrix) / S[:, None]
    else:
        U, S, V = np.linalg.svd(matrix, full_matrices=False)
    held = np.flatnonzero(S[:count] > empty)
    return U[:, held], S[held], V[held]


def _nearest(matrix: Array) -> Array:
    """The nearest matrix with orthonormal columns; directions that it lacks stay out."""
    if matrix.shape[1] == 0:
        return matrix
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    if squares[0] > _SQUARED_RANGE * squares[-1]:
        return np.asarray(matrix @ ((vectors / np.sqrt(squares)) @ vectors.T))
    U, S, V = np.linalg.svd(matrix, full_matrices=False)
    held = _PARALLEL * S[0] < S
    return np.asarray(U[:, held] @ V[held])
