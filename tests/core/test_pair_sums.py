"""Weights whose products are added in 16 bits: limits against a simulation of vpmaddubsw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.calibration.place.weights import quantize_weight
from edgedeploy.core.pair_sums import (
    LARGEST_PAIR,
    LEVELS,
    Product,
    as_rows,
    code_limits,
    from_rows,
    neighbors,
    saturating,
)

# Operator, shape of the weight, axis of its scales.
WEIGHTS = {
    "conv": (Product("Conv"), (8, 16, 3, 3), 0),
    "odd channels": (Product("Conv"), (8, 3, 3, 3), 0),
    "one channel": (Product("Conv"), (8, 1, 5, 5), 0),
    "in one dimension": (Product("Conv"), (8, 6, 5), 0),
    "grouped": (Product("Conv", 2), (8, 5, 3, 3), 0),
    "depthwise": (Product("Conv", 8), (8, 1, 3, 3), 0),
    "transposed": (Product("ConvTranspose"), (8, 6, 2, 2), 1),
    "grouped transposed": (Product("ConvTranspose", 2), (8, 6, 2, 2), 1),
    "one scale": (Product("ConvTranspose", 2), (8, 6, 2, 2), None),
    "gemm": (Product("Gemm"), (7, 16), 1),
    "gemm transposed": (Product("Gemm", transposed=True), (16, 7), 0),
    "matmul": (Product("MatMul"), (8, 16), 1),
    "batch of matrices": (Product("MatMul"), (3, 7, 16), None),
}


@pytest.fixture(params=WEIGHTS)
def case(request: pytest.FixtureRequest) -> tuple[Product, tuple[int, ...], int | None]:
    return WEIGHTS[request.param]


def saturated(codes: np.ndarray, product: Product, x: np.ndarray) -> np.ndarray:
    """sum_k x_k w_k per output as vpmaddubsw forms it: neighbors added in 16 bits, their sums in 32."""
    rows = as_rows(codes.astype(np.int64), product)
    products = rows.reshape(len(rows), -1) * x
    first, second = neighbors(codes.shape, product).T
    exact = products.sum(axis=1)
    pairs = products[:, first] + products[:, second]
    return np.asarray(exact + (np.clip(pairs, -32768, 32767) - pairs).sum(axis=1))


def test_rows_come_back(case: tuple[Product, tuple[int, ...], int | None], rng: np.random.Generator) -> None:
    product, shape, _ = case
    w = rng.normal(size=shape)
    np.testing.assert_array_equal(from_rows(as_rows(w, product), product, shape), w)


@pytest.mark.parametrize("spread", ["normal", "heavy"])
def test_limited_codes_are_added_exactly(
    case: tuple[Product, tuple[int, ...], int | None], spread: str, rng: np.random.Generator
) -> None:
    product, shape, axis = case
    w = (rng.normal(size=shape) if spread == "normal" else rng.standard_cauchy(size=shape)).astype(np.float32)
    whole, _ = quantize_weight(w, axis)
    codes, scale = quantize_weight(w, axis, product)
    depth = as_rows(w, product)[0].size
    inputs = [np.full(depth, 255), rng.integers(0, 256, depth), 255 * rng.integers(0, 2, depth)]
    for x in inputs:
        exact = (as_rows(codes.astype(np.int64), product).reshape(-1, depth) * x).sum(axis=1)
        np.testing.assert_array_equal(saturated(codes, product, x), exact)
    assert saturating(codes, product) == 0
    if spread == "normal" and product.group != shape[0]:
        assert saturating(whole, product), "the limit is needed"
    wide = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(w.ndim)])
    assert np.abs(codes * wide - w).max() <= 1.01 * wide.max(), "a code is off by one step at most"


def test_only_what_saturates_is_limited(rng: np.random.Generator) -> None:
    """A channel without large neighbors keeps all its bits, and depthwise weights do."""
    w = rng.uniform(-0.4, 0.4, (4, 16, 3, 3)).astype(np.float32)
    w[:, 0, 0, 0] = 1.0
    w[:, 1, 0, 0] = -1.0
    for product, weight in ((Product("Conv"), w), (Product("Conv", 4), w[:, :1])):
        for ours, plain in zip(quantize_weight(weight, 0, product), quantize_weight(weight, 0), strict=True):
            np.testing.assert_array_equal(ours, plain)


@settings(max_examples=200, deadline=None)
@given(
    a=st.floats(-200, 200), b=st.floats(-200, 200), c=st.floats(-200, 200), channels=st.sampled_from([2, 3])
)
def test_no_choice_between_the_limits_can_saturate(a: float, b: float, c: float, channels: int) -> None:
    product = Product("Conv")
    steps = np.tile(np.array([a, b, c])[:channels], 2).reshape(1, 2, channels).transpose(0, 2, 1)
    low, high = code_limits(steps, product)
    assert (low <= high).all()
    assert np.abs(low).max() <= LEVELS
    assert high.max() <= LEVELS
    for end in (low, high):
        assert saturating(end, product) == 0
    if max(abs(a) + abs(b), abs(b) + abs(c), abs(c) + abs(a)) <= LARGEST_PAIR - 2:
        nearest = np.clip(np.rint(steps), -LEVELS, LEVELS)
        assert ((low <= nearest) & (nearest <= high)).all(), "rounding to nearest is allowed where it is safe"
