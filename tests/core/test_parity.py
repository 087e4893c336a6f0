"""The four figures of parity, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.core.errors import ParityError
from edgedeploy.core.parity import EXACT, Parity, compare, compare_all


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3))
def test_figures_follow_their_definitions(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    r = rng.standard_normal((3, 4, 5))
    c = r + size * rng.standard_normal((3, 4, 5))
    parity = compare(r, c)
    assert parity.max_abs == pytest.approx(np.abs(r - c).max())
    assert parity.max_rel == pytest.approx(np.abs(r - c).max() / np.abs(r).max())
    assert parity.sqnr_db == pytest.approx(10 * math.log10((r**2).sum() / ((r - c) ** 2).sum()))
    assert parity.cosine == pytest.approx((r * c).sum() / np.linalg.norm(r) / np.linalg.norm(c))


def test_equal_tensors_are_exact() -> None:
    x = np.arange(6, dtype=np.float32)
    assert compare(x, x.copy()) == EXACT
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))) == EXACT


def test_non_finite_values_must_stand_in_the_same_places() -> None:
    r = np.array([1.0, np.nan, np.inf])
    assert compare(r, r.copy()) == EXACT
    for wrong in ([1.0, 0.0, np.inf], [np.nan, np.nan, np.inf], [1.0, np.nan, -np.inf]):
        assert compare(r, np.array(wrong)).max_abs == math.inf


def test_a_silent_reference_counts_absolutely() -> None:
    parity = compare(np.zeros(4), np.full(4, 0.5))
    assert parity == Parity(0.5, 0.5, -math.inf, 0.0)


def test_worst_of_all_outputs() -> None:
    r = {"a": np.ones(3), "b": np.ones(3)}
    c = {"a": np.ones(3), "b": np.full(3, 1.1), "unused": np.zeros(1)}
    assert compare_all(r, c).max_abs == pytest.approx(0.1)
    with pytest.raises(ParityError, match="output 'b' is missing"):
        compare_all(r, {"a": np.ones(3)})
    with pytest.raises(ParityError, match="shapes differ"):
        compare_all(r, {"a": np.ones(4), "b": np.ones(3)})
