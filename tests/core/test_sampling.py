"""Evenly spaced indices; the bound of a mean holds as often as it says, also with a long lower tail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.core.sampling import evenly_spaced, mean_lower_bound

Draw = Callable[[np.random.Generator, int], np.ndarray]
# how agreements are spread -> draws, and the true mean
SPREADS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: 0.99 + 0.005 * rng.normal(size=n), 0.99),
    "exponential": (lambda rng, n: 1 - 0.01 * rng.exponential(size=n), 0.99),
    "log-normal": (lambda rng, n: 1 - 0.005 * rng.lognormal(0, 1, n), 1 - 0.005 * np.exp(0.5)),
    "some far off": (
        lambda rng, n: 1 - 0.005 * rng.exponential(size=n) - 0.1 * (rng.random(n) < 0.08),
        1 - 0.005 - 0.1 * 0.08,
    ),
}


@pytest.mark.parametrize("spread", SPREADS)
def test_bound_holds_nine_times_of_ten_and_more(spread: str) -> None:
    draw, mean = SPREADS[spread]
    rng = np.random.default_rng(3)
    bounds = [mean_lower_bound(draw(rng, 32)) for _ in range(300)]
    assert np.mean([bound is not None and bound <= mean for bound in bounds]) >= 0.89  # 0.95 less its noise


def test_bound_is_no_idle_one() -> None:
    """It nears the mean as the sample grows, and passes it about one time in twenty."""
    rng = np.random.default_rng(3)
    bounds = {n: [mean_lower_bound(rng.normal(0, 1, n)) or 0.0 for _ in range(200)] for n in (16, 256)}
    assert 0.01 <= np.mean(np.asarray(bounds[256]) > 0) <= 0.10
    assert -0.13 < np.median(bounds[256]) < -0.08  # 1.65 / 16
    assert np.median(bounds[16]) < 3 * np.median(bounds[256])


def test_order_does_not_matter_much_and_the_seed_decides() -> None:
    sample = list(np.random.default_rng(0).random(20))
    assert mean_lower_bound(sample) == mean_lower_bound(sample)
    assert mean_lower_bound(sample, seed=1) == pytest.approx(mean_lower_bound(sample), abs=0.02)


@pytest.mark.parametrize(
    ("sample", "bound"),
    [
        ([0.9], None),  # one value says nothing
        ([0.9, 0.9, 0.9], 0.9),
        ([1.0] * 31 + [0.5], 0.984375 - 1.645 / 64),  # most resamples hold no 0.5
        ([0.9, 1.0], 0.95 - 1.645 * 0.05),
    ],
)
def test_samples_without_much_spread(sample: list[float], bound: float | None) -> None:
    assert mean_lower_bound(sample) == pytest.approx(bound)


@given(st.integers(0, 400), st.integers(0, 90))
def test_indices_are_in_order_and_their_gaps_differ_by_one_at_most(count: int, wanted: int) -> None:
    chosen = evenly_spaced(count, wanted)
    assert len(chosen) == min(count, wanted)
    assert chosen[:1] == ([0] if chosen else [])
    gaps = {b - a for a, b in zip(chosen, [*chosen[1:], count], strict=False) if chosen}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
