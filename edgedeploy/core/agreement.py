"""How far two outputs agree, 1 where they are equal: overlap of masks, and likeness of values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else 1.0


def likeness(reference: NDArray[Any], values: NDArray[Any]) -> float:
    """1 - |reference - values| / |reference|, at least 0: 0.99 is an SQNR of 40 dB; 0 for NaN."""
    expected = reference.astype(np.float64)
    signal, noise = float(np.linalg.norm(expected)), float(np.linalg.norm(expected - values))
    if noise == 0:
        return 1.0
    return max(0.0, 1.0 - noise / signal) if signal and np.isfinite(noise) else 0.0


def cosine(reference: NDArray[Any], values: NDArray[Any]) -> float:
    """Cosine of the angle between two vectors; 0 where one has no direction."""
    x, y = (array.astype(np.float64).ravel() for array in (reference, values))
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if lengths and np.isfinite(lengths) else 0.0
