"""Levels: the integers to which weights are quantized, and their scales."""

from __future__ import annotations

import numpy as np

WEIGHT_LEVELS = 63
"""Largest magnitude of a weight: 7 bits. Two products u8 x s8 then sum to at most 255 * 63 * 2 = 32130 < 2**15, the limit
of the 16-bit sums of AVX2 and of AVX-512 without VNNI (https://github.com/microsoft/onnxruntime/issues/6004)."""
VNNI_LEVELS = 127
"""Largest magnitude of a weight if products are summed in 32 bits: 8 bits."""
TABLE_LEVELS = 127
"""Largest magnitude in an embedding table, which is looked up and never multiplied."""
TINY = float(np.finfo(np.float32).tiny)


def quantize_weights(weights: np.ndarray, levels: int = WEIGHT_LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """int8[inputs, outputs] of magnitude at most `levels`, and float32[outputs]: symmetric, with one scale per column."""
    scales = at_least_tiny(np.abs(weights).max(axis=0) / levels)
    return np.rint(weights / scales).astype(np.int8), scales


def at_least_tiny(array: np.ndarray) -> np.ndarray:
    """The values as float32, raised to a minimum at which a division by them does not overflow."""
    return np.asarray(np.maximum(array, 1e-8), np.float32)
