"""t = the smallest bin edge with at least `percentile` % of all |x| below it.

Clips a fixed share of the values: robust against single outliers, but blind to the error of clipping.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedeploy.calibration.calibrator import CALIBRATORS, Calibrator, Range, TensorStatistics, clipped


@CALIBRATORS.register
@dataclass(frozen=True)
class Percentile(Calibrator):
    """Clips symmetrically at a percentile of the magnitude.

    Attributes:
        percentile: share of values kept unclipped, in per cent.
    """

    name = "percentile"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 50.0 <= self.percentile <= 100.0:
            raise ValueError(f"percentile must be 50 to 100, not {self.percentile}")

    def range_of(self, statistics: TensorStatistics) -> Range:
        histogram = statistics.histogram
        assert histogram is not None  # noqa: S101  the driver collects it: needs_histogram
        below = np.cumsum(histogram.magnitudes())
        bins = int(np.searchsorted(below, below[-1] * (self.percentile / 100.0))) + 1
        bound = bins * histogram.width
        return clipped(statistics, bound)
