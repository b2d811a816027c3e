"""Floating-point tensors as bytes in a file and as arrays for computing."""

import numpy as np

from revt_hf.merging.registry import Array

# NumPy has no bfloat16: its bits are kept as integers.
STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def unpacked(view: memoryview, dtype: str) -> Array:
    """Bytes of a floating-point tensor as float32 or float64 (1-D), without a copy if possible."""
    raw = np.frombuffer(view, dtype=STORED[dtype])
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32) if dtype == "F16" else raw


def packed(values: Array, dtype: str) -> memoryview:
    """Values as the file's bytes; bfloat16 is rounded to nearest even."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        # Rounding would turn some NaN into infinity.
        values = np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=STORED[dtype]).data.cast("B")
