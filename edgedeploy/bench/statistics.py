"""Statistics of times: percentiles, confidence intervals of medians, and signs of a busy machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)
RESAMPLES = 1000
CONFIDENCE = 0.95
DRIFT, SPREAD = 0.10, 1.5


def percentiles(times: Times) -> dict[int, float]:
    """The percentiles of PERCENTILES, by linear interpolation."""
    return {p: float(np.percentile(times, p)) for p in PERCENTILES}


def median_interval(times: Times, seed: int = 0) -> tuple[float, float]:
    """95 % confidence interval of the median, by percentile bootstrap; deterministic for a seed.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    return _interval(np.median(times[_resamples(len(times), seed)], axis=1))


def speedup_interval(baseline: Times, times: Times, seed: int = 0) -> tuple[float, float]:
    """95 % confidence interval of median(baseline) / median(times), resampled in pairs of one round.

    A disturbance of a round affects both times and cancels.
    """
    picks = _resamples(min(len(baseline), len(times)), seed)
    return _interval(np.median(baseline[picks], axis=1) / np.median(times[picks], axis=1))


def noise_note(times: Times) -> str:
    """Signs of a disturbed measurement, as text; "" for none."""
    notes = []
    p50, p95 = np.percentile(times, [50, 95])
    half = len(times) // 2
    if half >= 5:
        drift = float(np.median(times[half:]) / np.median(times[:half]) - 1)
        if abs(drift) > DRIFT:
            notes.append(f"drift {drift:+.0%} from first to second half")
    if p95 > SPREAD * p50:
        notes.append(f"noisy, p95 is {p95 / p50:.1f} x p50")
    low, high = np.percentile(times, [25, 75])
    far = int(np.sum(times > high + 3 * (high - low)))
    if far:
        notes.append(f"{far} of {len(times)} runs far out")
    return "; ".join(notes)


def _resamples(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _interval(values: Times) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
