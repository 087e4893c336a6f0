"""t* = argmin_t sum_b count_b (c_b - Q_t(c_b))^2, Q_t(x) = s clip(round(x / s), -127, 127), s = t / 127.

The threshold of least expected squared error, from clipping and rounding; c_b is the center of bin b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedeploy.calibration.calibrator import CALIBRATORS, Calibrator, Range, TensorStatistics, clipped
from edgedeploy.core.pair_sums import LEVELS


@CALIBRATORS.register
@dataclass(frozen=True)
class MeanSquaredError(Calibrator):
    """Clips symmetrically where the squared error is least.

    Attributes:
        candidates: number of thresholds, evenly spaced up to the largest magnitude.
    """

    name = "mse"
    candidates: int = 128

    def __post_init__(self) -> None:
        if not 2 <= self.candidates <= 4096:
            raise ValueError(f"candidates must be 2 to 4096, not {self.candidates}")

    def range_of(self, statistics: TensorStatistics) -> Range:
        histogram = statistics.histogram
        assert histogram is not None  # noqa: S101  the driver collects it: needs_histogram
        counts = histogram.magnitudes().astype(np.float64)
        centers = (np.arange(counts.size) + 0.5) * histogram.width
        amax = max(abs(statistics.minimum), abs(statistics.maximum))
        if amax == 0.0:
            return Range(0.0, 0.0)
        best, bound = np.inf, amax
        for threshold in amax * np.arange(self.candidates, 0, -1) / self.candidates:
            scale = threshold / LEVELS
            error = centers - scale * np.minimum(np.rint(centers / scale), LEVELS)
            cost = float(counts @ (error * error))
            if cost < best:
                best, bound = cost, float(threshold)
        return clipped(statistics, bound)
