"""Histograms count exactly, and every calibrator gives the range that its formula states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.calibration import CALIBRATORS, Range, TensorStatistics, make_calibrator
from edgedeploy.calibration.collect.accumulate import Accumulator
from edgedeploy.calibration.collect.histogram import BINS, Histogram
from edgedeploy.calibration.methods.entropy import best_cut, divergences
from edgedeploy.core.errors import RecipeError, UnknownNameError


def gather(*parts: np.ndarray) -> TensorStatistics:
    accumulator = Accumulator(Histogram())
    for part in parts:
        accumulator.add(part)
    return accumulator.statistics()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponents=st.lists(st.integers(-40, 40), min_size=1, max_size=6))
def test_histogram_of_a_stream_equals_numpy_on_the_whole(seed: int, exponents: list[int]) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.standard_normal(500) * 2.0**e).astype(np.float32) for e in exponents]
    histogram = gather(*parts).histogram
    assert histogram is not None
    whole = np.concatenate(parts).astype(np.float64)
    edges = np.arange(-BINS, BINS + 1) * (histogram.limit / BINS)
    wanted = np.bincount(np.searchsorted(edges, whole, side="right") - 1, minlength=2 * BINS)
    np.testing.assert_array_equal(histogram.counts, wanted)
    assert histogram.limit / 2 <= np.abs(whole).max() < histogram.limit


def test_histogram_memory_does_not_depend_on_the_data(rng: np.random.Generator) -> None:
    few, many = gather(rng.random(10, dtype=np.float32)), gather(*rng.random((20, 10_000), dtype=np.float32))
    assert few.histogram is not None
    assert many.histogram is not None
    assert many.histogram.counts.nbytes == few.histogram.counts.nbytes == 2 * BINS * 8
    assert many.histogram.counts.sum() == many.count == 200_000


def test_magnitudes_fold_the_negative_side(rng: np.random.Generator) -> None:
    values = rng.standard_normal(10_000).astype(np.float32)
    histogram = gather(values).histogram
    assert histogram is not None
    edges = np.arange(BINS + 1) * histogram.width
    np.testing.assert_array_equal(histogram.magnitudes(), np.histogram(np.abs(values), edges)[0])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.floats(width=32), min_size=1, max_size=20), min_size=1, max_size=5))
def test_extremes_are_exact_and_nonfinite_values_are_counted_apart(parts: list[list[float]]) -> None:
    arrays = [np.array(part, dtype=np.float32) for part in parts]
    whole = np.concatenate(arrays)
    finite = whole[np.isfinite(whole)]
    statistics = gather(*arrays)
    assert (statistics.count, statistics.nonfinite) == (finite.size, whole.size - finite.size)
    if finite.size:
        assert make_calibrator("minmax", {}).range_of(statistics) == Range(finite.min(), finite.max())
        assert statistics.histogram is not None
        assert statistics.histogram.counts.sum() == finite.size


def brute_force(counts: np.ndarray, levels: int, cut: int) -> float:
    """KL(P || Q) by the letter, one bin at a time."""
    p = counts[:cut].astype(float).copy()
    p[-1] += counts[cut:].sum()
    q = np.zeros(cut)
    for level in range(levels):
        bins = [j for j in range(cut) if j * levels // cut == level]
        filled = [j for j in bins if p[j] > 0]
        for j in filled:
            q[j] = counts[bins].sum() / len(filled)
    if counts[:cut].sum() == 0:
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    with np.errstate(divide="ignore"):
        return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.sampled_from([0, 0, 1, 2, 7, 100, 5000]), min_size=9, max_size=40),
    levels=st.integers(2, 8),
)
def test_divergences_equal_brute_force(counts: list[int], levels: int) -> None:
    data = np.array(counts)
    if not data.any():
        data[3] = 1
    cuts = np.arange(levels, data.size + 1)
    wanted = [brute_force(data, levels, int(cut)) for cut in cuts]
    np.testing.assert_allclose(divergences(data, levels, cuts), wanted, atol=1e-9)
    assert wanted[best_cut(data, levels) - levels] <= min(wanted) + 1e-9


def test_entropy_clips_a_lone_outlier_and_keeps_a_uniform_tensor(rng: np.random.Generator) -> None:
    normal = rng.standard_normal(100_000).astype(np.float32)
    clipped = make_calibrator("entropy", {}).range_of(gather(normal, np.array([60.0], dtype=np.float32)))
    assert 2.5 < clipped.amax < 12.0
    uniform = rng.uniform(-3, 3, 200_000).astype(np.float32)
    assert make_calibrator("entropy", {}).range_of(gather(uniform)).amax > 2.9


def test_entropy_does_not_collapse_on_an_eight_bit_image(rng: np.random.Generator) -> None:
    """Few distinct values: by the published rule the threshold is the darkest pixel."""
    statistics = gather((rng.integers(16, 236, 100_000) / 255).astype(np.float32))
    assert make_calibrator("entropy", {}).range_of(statistics).amax > 0.9
    assert make_calibrator("entropy", {"coverage": 0}).range_of(statistics).amax < 0.1


def test_zeros_do_not_move_the_entropy_threshold(rng: np.random.Generator) -> None:
    values = np.abs(rng.standard_normal(50_000)).astype(np.float32)
    zeros = np.zeros(1_000_000, dtype=np.float32)
    entropy = make_calibrator("entropy", {})
    assert entropy.range_of(gather(values, zeros)) == Range(0.0, entropy.range_of(gather(values)).high)


def test_percentile_agrees_with_numpy_to_a_bin(rng: np.random.Generator) -> None:
    values = rng.standard_normal(100_000).astype(np.float32)
    statistics = gather(values)
    assert statistics.histogram is not None
    bound = make_calibrator("percentile", {"percentile": 99.0}).range_of(statistics).amax
    assert abs(bound - np.percentile(np.abs(values), 99.0)) <= statistics.histogram.width


def test_mse_range_quantizes_better_than_its_neighbors(rng: np.random.Generator) -> None:
    values = rng.standard_t(3, 50_000).astype(np.float32)
    bound = make_calibrator("mse", {}).range_of(gather(values)).amax

    def error(threshold: float) -> float:
        scale = threshold / 127
        return float(np.square(values - scale * np.clip(np.rint(values / scale), -127, 127)).sum())

    assert error(bound) < min(error(bound * 0.7), error(bound * 1.4), error(float(np.abs(values).max())))


@pytest.mark.parametrize("method", CALIBRATORS.names())
@pytest.mark.parametrize("value", [0.0, -2.5, 1e-30, 3e38])
def test_every_method_covers_a_constant(method: str, value: float) -> None:
    covered = make_calibrator(method, {}).range_of(gather(np.full(100, value, dtype=np.float32)))
    assert covered.low == covered.high == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("method", CALIBRATORS.names())
def test_no_method_exceeds_what_was_seen(method: str, rng: np.random.Generator) -> None:
    values = np.abs(rng.standard_normal(5000)).astype(np.float32)
    covered = make_calibrator(method, {}).range_of(gather(values))
    assert float(values.min()) == covered.low <= covered.high <= float(values.max())


def test_bad_options_are_named() -> None:
    with pytest.raises(UnknownNameError) as unknown:
        make_calibrator("entropi", {})
    assert "entropy" in unknown.value.hint
    with pytest.raises(RecipeError, match="no option bin") as option:
        make_calibrator("entropy", {"bin": 3})
    assert "levels" in option.value.hint
    with pytest.raises(RecipeError, match="percentile"):
        make_calibrator("percentile", {"percentile": 20})
    with pytest.raises(RecipeError):
        make_calibrator("percentile", {"percentile": "high"})
