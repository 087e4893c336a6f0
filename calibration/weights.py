"""q = round(w / s), s = max |w| / 127, per output channel or for the whole tensor; zero-point 0.

The range is [-127, 127], symmetric, so that negating a weight negates its code. A channel of zeros gets scale
1, for scales must be positive (H1). Arithmetic in float64; codes are of the scale rounded to float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = 127
# The smallest normal float32 would do for us, but runtimes take reciprocals.
SMALLEST_SCALE = 2.0**-100


ON_GRID = (
    2.0**-18
)  # of a channel's peak: what float32 loses when codes times scale are stored and scaled again
FEW = 8  # elements a channel, which a grid of 255 levels may hold by chance


def quantize_weight(w: NDArray[np.float32], axis: int | None) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (shape of w) and scales: (channels,) along `axis`, or () for axis None."""
    others = tuple(i for i in range(w.ndim) if i != axis) if axis is not None else None
    peak = np.abs(w).max(axis=others, initial=0.0).astype(np.float64)
    scale = np.where(peak > 0, np.maximum(peak / LEVELS, SMALLEST_SCALE), 1.0).astype(np.float32)
    spread = scale.astype(np.float64)
    if axis is not None:
        spread = spread.reshape([-1 if i == axis else 1 for i in range(w.ndim)])
    codes = np.clip(np.rint(w / spread), -LEVELS, LEVELS).astype(np.int8)
    return codes, scale


def on_grid(w: NDArray[np.float32], axis: int) -> bool:
    """Whether a weight is int8 codes times scales already, as quantisation-aware training leaves it."""
    if w.size < FEW * w.shape[axis]:
        return False
    codes, scale = quantize_weight(w, axis)
    spread = scale.astype(np.float64).reshape([-1 if i == axis else 1 for i in range(w.ndim)])
    return bool((np.abs(codes * spread - w) <= ON_GRID * LEVELS * spread).all())
