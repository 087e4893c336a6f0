"""t = (i* + 1/2) w, i* = argmin_i KL(P_i || Q_i), bin width w: the clipping that loses the least information.

P_i is the histogram of |x| cut after i bins, with the counts beyond added to its last bin. Q_i is the same
i bins without those counts, merged into 128 levels; the count of a level is spread evenly over its bins
that P_i fills. Migacz, "8-bit Inference with TensorRT", GTC 2017; zeros are left out as in NVIDIA
pytorch-quantization.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedeploy.calibration.calibrator import CALIBRATORS, Calibrator, Range, TensorStatistics, clipped


@CALIBRATORS.register
@dataclass(frozen=True)
class Entropy(Calibrator):
    """Clips symmetrically where the Kullback-Leibler divergence is least.

    Attributes:
        levels: positive levels of the quantized tensor; the search begins at one bin per level.
        coverage: per cent of the values that are never clipped. 0 is the published method, which collapses
            on tensors of few distinct values (an 8-bit image): with all values in the last bin P equals Q.
    """

    name = "entropy"
    levels: int = 128
    coverage: float = 99.99

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 2048:
            raise ValueError(f"levels must be 2 to 2048, not {self.levels}")
        if not 0.0 <= self.coverage <= 100.0:
            raise ValueError(f"coverage must be 0 to 100, not {self.coverage}")

    def range_of(self, statistics: TensorStatistics) -> Range:
        histogram = statistics.histogram
        assert histogram is not None  # noqa: S101  the driver collects it: needs_histogram
        counts = histogram.magnitudes()
        counts = counts[: counts.nonzero()[0][-1] + 1].copy()
        least = int(np.searchsorted(np.cumsum(counts), counts.sum() * (self.coverage / 100.0))) + 1
        # Zero is exact in every quantization, and after ReLU zeros would outweigh all other values.
        if counts.size > 1:
            counts[0] = counts[1]
        cut = best_cut(counts, self.levels, least)
        bound = (cut + 0.5) * histogram.width
        return clipped(statistics, bound)


def best_cut(counts: NDArray[np.int64], levels: int, least: int = 0) -> int:
    """The number of bins to keep: at least `levels` and `least`, at most all."""
    start = max(levels, least)
    if counts.size <= start or not counts.any():
        return counts.size
    cuts = np.arange(start, counts.size + 1)
    return int(cuts[np.argmin(divergences(counts, levels, cuts))])


def divergences(counts: NDArray[np.int64], levels: int, cuts: NDArray[np.int64]) -> NDArray[np.float64]:
    """KL(P_i || Q_i) in nats for every i of `cuts`; inf where Q_i is zero and P_i is not.

    Prefix sums give all cuts at once: Q is constant within a level, so the sum needs only the level's
    count, its number of filled bins and its sum of P log P.
    """
    total = counts.sum()
    prefix = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    information = np.concatenate([[0.0], np.cumsum(_xlogx(counts))])
    # Level k of cut i holds bins ceil(k i / levels) up to ceil((k + 1) i / levels), exclusive.
    edges = -(-np.arange(levels + 1) * cuts[:, None] // levels)
    mass = np.diff(prefix[edges], axis=1)  # what Q distributes
    bins = np.diff(filled[edges], axis=1)
    last, beyond = counts[cuts - 1], total - prefix[cuts]
    bins[:, -1] += (last == 0) & (beyond > 0)  # the outliers fill the last bin
    weight = mass.copy()
    weight[:, -1] += beyond  # what P has in each level
    spread = np.divide(mass, bins, out=np.zeros_like(mass), where=bins > 0)
    with np.errstate(divide="ignore"):
        log_q = np.log(spread)
    cross = np.where(weight > 0, weight * np.where(weight > 0, log_q, 0.0), 0.0).sum(axis=1)
    own = information[cuts] - _xlogx(last) + _xlogx(last + beyond)
    kept = prefix[cuts]
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (own - cross) / total - np.log(total) + np.log(kept)
    return np.where(kept > 0, result, np.inf)


def _xlogx(x: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """x log x, 0 at 0."""
    value = x.astype(np.float64)
    return value * np.log(np.maximum(value, 1.0))
