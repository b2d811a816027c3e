"""Floating-point tensors as bytes in a file, and as arrays that are computed with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# NumPy has no bfloat16: its bits are kept as whole numbers.
STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
# What half precision is computed in.
WIDE = {"F64": np.float64, "F32": np.float32, "F16": np.float32, "BF16": np.float32}


def unpacked(view: memoryview, dtype: str) -> NDArray[Any]:
    """Bytes of a floating-point tensor as float32 or float64 (1-D); not a copy if they can be."""
    raw = np.frombuffer(view, dtype=STORED[dtype])
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32) if dtype == "F16" else raw


def packed(values: NDArray[Any], dtype: str) -> memoryview:
    """Values as the file's bytes; bfloat16 is rounded to nearest even."""
    if dtype == "BF16":
        values = _rounded(values)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=STORED[dtype]).data.cast("B")


def _rounded(values: NDArray[Any]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + (0x7FFF + ((bits >> 16) & 1))
    # Rounding would turn some NaN into infinity.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded >> 16).astype(np.uint16)
