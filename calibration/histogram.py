"""index(x) = floor(x * BINS / limit), with limit a power of two above every |x|.

Scaling by a power of two is exact in floating point, so a value's bin never depends on rounding; and when a
larger value arrives, limit doubles and pairs of bins merge: floor(floor(a) / 2) = floor(a / 2), so the counts
are exactly those of one histogram of the whole data at the final limit. Memory is fixed, whatever the number
of images.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BINS = 4096  # on either side of zero; at least half of them lie below the largest magnitude
_BLOCK = 1 << 20  # elements handled at once: bounds the temporaries
_SMALLEST = -110  # exponent of the first limit: keeps BINS / limit within float32


class Histogram:
    """Counts of values over [-limit, limit) in 2 * BINS equal bins; bin BINS begins at zero."""

    def __init__(self) -> None:
        self.exponent = _SMALLEST
        self.counts: NDArray[np.int64] = np.zeros(2 * BINS, dtype=np.int64)

    @property
    def limit(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def width(self) -> float:
        """Width of one bin."""
        return math.ldexp(1.0, self.exponent) / BINS

    def add(self, values: NDArray[np.float32], amax: float) -> None:
        """Count finite float32 values, none larger in magnitude than `amax`."""
        if amax > 0:
            self._grow(math.frexp(amax)[1])
        scale = np.float32(BINS / self.limit)
        flat = values.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            index = np.floor(flat[start : start + _BLOCK] * scale).astype(np.int16)
            index += BINS
            self.counts += np.bincount(index, minlength=2 * BINS)

    def magnitudes(self) -> NDArray[np.int64]:
        """Counts of |x| over [0, limit) in BINS bins of the same width."""
        return self.counts[BINS:] + self.counts[BINS - 1 :: -1]

    def _grow(self, exponent: int) -> None:
        shift = exponent - self.exponent
        if shift <= 0:
            return
        if self.counts.any():
            # An arithmetic shift is floor division, on the negative side too.
            index = (np.arange(-BINS, BINS) >> min(shift, 62)) + BINS
            merged = np.zeros_like(self.counts)
            np.add.at(merged, index, self.counts)
            self.counts = merged
        self.exponent = exponent
