"""The contract of a calibrator: statistics of one tensor -> the range that INT8 covers.

A calibrator is a frozen dataclass in a file of its own: its fields are its options.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgedeploy.calibration.collect.histogram import Histogram
from edgedeploy.core.registry import Registry, with_options


@dataclass(frozen=True)
class Range:
    """The range of a quantized tensor, `low <= high`, both finite."""

    low: float
    high: float

    @property
    def amax(self) -> float:
        """Largest magnitude: symmetric INT8 maps [-amax, amax] to [-127, 127]."""
        return max(abs(self.low), abs(self.high))

    def union(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class TensorStatistics:
    """Statistics of one tensor over the calibration set.

    Attributes:
        minimum, maximum: extremes of the finite values; inf and -inf without any.
        count: number of finite values.
        nonfinite: number of NaN and infinite values; no other field includes them.
        histogram: histogram of the finite values; None if the method needs none.
        peaks: largest magnitude per channel (axis 1), on request.
        extremes: (images, 2), minimum and maximum of each image; inf and -inf without a finite value.
    """

    minimum: float
    maximum: float
    count: int
    nonfinite: int = 0
    histogram: Histogram | None = None
    peaks: NDArray[np.float64] | None = None
    extremes: NDArray[np.float64] | None = None


def clipped(statistics: TensorStatistics, bound: float) -> Range:
    """The range of the tensor's values within [-bound, bound]."""
    low, high = (min(max(edge, -bound), bound) for edge in (statistics.minimum, statistics.maximum))
    return Range(low, high)


class Calibrator(ABC):
    """Turns statistics into a range; `needs_histogram` asks for the histogram of the tensor."""

    name: ClassVar[str]
    needs_histogram: ClassVar[bool] = True

    @abstractmethod
    def range_of(self, statistics: TensorStatistics) -> Range:
        """The range to cover; `statistics.count` is positive, and the histogram is present if needed."""


CALIBRATORS: Registry[type[Calibrator]] = Registry("calibrator", "edgedeploy.calibration.methods")


def make_calibrator(method: str, options: Mapping[str, Any]) -> Calibrator:
    """The calibrator called `method` with its options set.

    Raises UnknownNameError for the name, RecipeError for an unknown option or a value out of range.
    """
    return with_options("calibrator", CALIBRATORS.get(method), options)
