"""Running statistics of one tensor: what a stream of its values is reduced to, image by image.

Values are read once, block by block while they are in the processor's cache: extremes first, then the
histogram, whose result does not depend on how the stream is cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.calibration.calibrator import TensorStatistics
from edgedeploy.calibration.collect.histogram import BLOCK, Histogram


@dataclass
class Accumulator:
    """Running statistics of one tensor.

    Attributes:
        histogram: of the finite values, None where none is wanted.
        channels: whether the largest magnitude of each channel (axis 1) is wanted.
        peaks: those magnitudes, once a tensor with channels came.
        extremes: (minimum, maximum) of each image; (inf, -inf) of one without finite values.
        count, nonfinite: values that are finite, and those that are not.
    """

    histogram: Histogram | None = None
    channels: bool = False
    peaks: NDArray[np.float64] | None = None
    extremes: list[tuple[float, float]] = field(default_factory=list)
    count: int = 0
    nonfinite: int = 0

    def add(self, values: NDArray[Any]) -> None:
        """Take in one image's tensor, of any shape; NaN and infinities are counted apart."""
        if self.channels and values.ndim > 1 and values.size:
            rows = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
            peaks = np.nan_to_num(np.maximum(rows.max(axis=1), -rows.min(axis=1)), posinf=0.0)
            self.peaks = peaks.astype(np.float64) if self.peaks is None else np.maximum(self.peaks, peaks)
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        minimum, maximum = np.inf, -np.inf
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            low, high = float(block.min()), float(block.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                finite = block[np.isfinite(block)]
                self.nonfinite += block.size - finite.size
                if finite.size == 0:
                    continue
                block, low, high = finite, float(finite.min()), float(finite.max())
            minimum, maximum = min(minimum, low), max(maximum, high)
            self.count += block.size
            if self.histogram is not None:
                self.histogram.add(block, max(abs(low), abs(high)))
        self.extremes.append((minimum, maximum))

    def statistics(self) -> TensorStatistics:
        """What is known so far."""
        extremes = np.asarray(self.extremes, dtype=np.float64).reshape(-1, 2)
        return TensorStatistics(
            minimum=float(extremes[:, 0].min(initial=np.inf)),
            maximum=float(extremes[:, 1].max(initial=-np.inf)),
            count=self.count,
            nonfinite=self.nonfinite,
            histogram=self.histogram,
            peaks=self.peaks,
            extremes=extremes,
        )
