"""range = [min x, max x] over the whole calibration set.

Nothing is clipped, so one outlier costs resolution of all values. The cheapest method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgedeploy.calibration.calibrator import CALIBRATORS, Calibrator, Range, TensorStatistics


@CALIBRATORS.register
@dataclass(frozen=True)
class MinMax(Calibrator):
    """Covers all values of the calibration set. No options."""

    name = "minmax"
    needs_histogram: ClassVar[bool] = False

    def range_of(self, statistics: TensorStatistics) -> Range:
        return Range(statistics.minimum, statistics.maximum)
