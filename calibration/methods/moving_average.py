"""m_1 = x_1, m_k = a m_(k-1) + (1 - a) x_k for the minimum and the maximum x_k of each image k in turn.

An outlier in one image moves the range by 1 - a of its size. The order of the images matters: about the last
1 / (1 - a) images decide. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgedeploy.calibration.calibrator import CALIBRATORS, Calibrator, Range, TensorStatistics


@CALIBRATORS.register
@dataclass(frozen=True)
class MovingAverage(Calibrator):
    """Covers the smoothed extremes of the images.

    Attributes:
        momentum: weight a of the previous images; 0 takes the last image alone.
    """

    name = "moving-average"
    needs_histogram: ClassVar[bool] = False

    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum must be 0 or more and less than 1, not {self.momentum}")

    def range_of(self, statistics: TensorStatistics) -> Range:
        extremes = statistics.extremes
        assert extremes is not None  # noqa: S101  the driver collects it always
        usable = extremes[np.isfinite(extremes).all(axis=1)]  # without images of NaN alone
        average = usable[0]
        for row in usable[1:]:
            average = self.momentum * average + (1.0 - self.momentum) * row
        return Range(float(average[0]), float(average[1]))
