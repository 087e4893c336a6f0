"""Difference, sensitivity and tolerances against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.core.errors import ParityError
from edgedeploy.core.parity import (
    EXACT,
    GRANT,
    RUNTIME,
    Difference,
    OutputNoise,
    Tolerance,
    compare,
    difference,
    last_bit_sensitivity,
    nudged,
    of_pass,
)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3))
def test_figures_follow_their_definitions(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    r = rng.standard_normal((3, 4, 5))
    c = r + size * rng.standard_normal((3, 4, 5))
    parity = compare(r, c)
    assert parity.max_rel == pytest.approx(np.abs(r - c).max() / np.abs(r).max())
    assert parity.sqnr_db == pytest.approx(10 * math.log10((r**2).sum() / ((r - c) ** 2).sum()))


def test_equal_tensors_are_exact() -> None:
    x = np.arange(6, dtype=np.float32)
    assert compare(x, x.copy()) == EXACT
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))) == EXACT


def test_non_finite_values_must_stand_in_the_same_places() -> None:
    r = np.array([1.0, np.nan, np.inf])
    assert compare(r, r.copy()) == EXACT
    for wrong in ([1.0, 0.0, np.inf], [np.nan, np.nan, np.inf], [1.0, np.nan, -np.inf]):
        assert compare(r, np.array(wrong)).max_rel == math.inf


def test_a_silent_reference_counts_absolutely() -> None:
    parity = compare(np.zeros(4), np.full(4, 0.5))
    assert parity == Difference(0.5, -math.inf)


def test_worst_of_all_outputs() -> None:
    r = {"a": np.ones(3), "b": np.ones(3)}
    c = {"a": np.ones(3), "b": np.full(3, 1.1), "unused": np.zeros(1)}
    assert difference(r, c).max_rel == pytest.approx(0.1)
    with pytest.raises(ParityError, match="output 'b' is missing"):
        difference(r, {"a": np.ones(3)})
    with pytest.raises(ParityError, match="shapes differ"):
        difference(r, {"a": np.ones(4), "b": np.ones(3)})


@pytest.mark.parametrize(
    ("precision", "found", "right"),
    [
        ("fp32", Difference(9e-4, 40.0), True),
        ("fp32", Difference(2e-3, 90.0), False),
        ("int8", Difference(0.2, 21.0), True),
        ("int8", Difference(0.0, 19.0), False),
        ("bf16", Difference(0.2, 26.0), True),
        ("fp16", Difference(0.2, 26.0), False),
    ],
)
def test_what_counts_as_the_same(precision: str, found: Difference, right: bool) -> None:
    assert RUNTIME[precision].accepts(found) is right


def test_the_grant_has_a_limit_and_is_for_fp32() -> None:
    chaotic = Difference(1.0, 0.0, 1.0, 1.0)
    fp32, int8 = (RUNTIME[precision].granting(chaotic) for precision in ("fp32", "int8"))
    assert fp32.accepts(Difference(0.09, 9.0))
    assert not fp32.accepts(Difference(0.11, 9.0))
    assert not fp32.accepts(Difference(unequal=0.06, moved=0.06))
    assert not int8.accepts(Difference(0.09, 9.0))


@pytest.mark.parametrize(
    ("dtype", "precision", "flipped", "step", "right"),
    [
        ("int64", "int8", 0.08, 7, True),  # of a class map, SQNR would be some 10 dB
        ("int64", "int8", 0.15, 1, False),
        ("int64", "fp32", 0.0005, 7, True),
        ("int64", "fp32", 0.01, 1, False),
        ("uint8", "fp16", 0.9, 1, True),  # an image whose last bit rounds otherwise
        ("uint8", "int8", 0.9, 40, False),
        ("bool", "int8", 0.08, 1, True),
        ("bool", "int8", 0.5, 1, False),
    ],
)
def test_class_maps_and_images_are_judged_by_what_moved(
    dtype: str, precision: str, flipped: float, step: int, right: bool
) -> None:
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 2 if dtype == "bool" else 19 if dtype == "int64" else 200, 100_000)
    expected[0] = 200 if dtype == "uint8" else expected[0]
    chosen = rng.permutation(expected.size) < flipped * expected.size
    got = np.where(chosen, (1 - expected) if dtype == "bool" else expected + step, expected)
    found = difference({"y": expected.astype(dtype)}, {"y": got.astype(dtype)})
    assert found.unequal == pytest.approx(flipped)
    assert RUNTIME[precision].accepts(found) is right


def test_an_output_of_integers_does_not_excuse_the_others() -> None:
    x, y = np.ones(4, np.float32), np.arange(4)
    assert not RUNTIME["int8"].accepts(difference({"x": x, "y": y}, {"x": x * 2, "y": y}))
    assert not RUNTIME["int8"].accepts(difference({"x": x, "y": y}, {"x": x, "y": y + 1}))
    with pytest.raises(ParityError, match="missing"):
        difference({"y": y}, {"x": y})


def test_sequences_and_strings_are_compared_by_element() -> None:
    x = [np.ones(3, np.float32), np.zeros(2, np.float32)]
    assert difference({"s": x}, {"s": [*x]}) == EXACT
    assert difference({"s": x}, {"s": [x[0] * 1.1, x[1]]}).max_rel == pytest.approx(0.1, rel=1e-5)
    for other in (x[:1], [*x, x[0]]):
        with pytest.raises(ParityError, match="items, not 2"):
            difference({"s": x}, {"s": other})
    names = np.array(["a", "b"], object)
    assert difference({"n": names}, {"n": names.copy()}) == EXACT
    assert not of_pass(1e-3).accepts(difference({"n": names}, {"n": names[::-1]}))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_last_bits_move_and_nothing_else(dtype: type, rng: np.random.Generator) -> None:
    x = rng.standard_normal(1000).astype(dtype)
    moved = nudged(x, rng)
    assert moved.dtype == x.dtype
    assert 0 < (np.abs(moved - x) / np.abs(x)).max() <= 2.1 * np.finfo(dtype).eps
    whole = np.arange(4)
    assert nudged(whole, rng) is whole


def test_sensitivity_is_of_the_model_and_widens_a_tolerance() -> None:
    x = {"x": np.linspace(1, 2, 64, dtype=np.float32)}

    def amplifying(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": 1e4 * (feeds["x"] - np.round(feeds["x"], 2)) + 1}

    def counting(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": np.zeros(int(feeds["x"].sum() * 1e9) % 7)}

    calm = last_bit_sensitivity(lambda feeds: {"y": feeds["x"] + 1}, [(x, {"y": x["x"] + 1})])
    assert calm.max_rel < 2e-7
    wild = last_bit_sensitivity(amplifying, [(x, amplifying(x))])
    assert wild.max_rel > 10 * calm.max_rel
    assert last_bit_sensitivity(counting, [(x, {"y": np.zeros(99)})]) == EXACT, "another shape is no figure"
    tolerance = Tolerance(max_rel=1e-6, granted_rel=0.01).granting(wild)
    assert tolerance.max_rel == pytest.approx(min(GRANT * wild.max_rel, 0.01))
    assert not Tolerance(max_rel=1e-6).granting(wild).accepts(Difference(max_rel=1e-3))


def test_noise_is_of_the_worst_output_however_quiet(rng: np.random.Generator) -> None:
    noise = OutputNoise()
    loud, quiet = 1e3 * rng.standard_normal(100), rng.standard_normal(100)
    for _ in range(2):
        noise.add({"loud": loud, "quiet": quiet, "class": np.arange(9)}, {
            "loud": loud * 1.001, "quiet": quiet * 1.5, "class": np.zeros(9)})  # fmt: skip
    assert noise.worst_db == pytest.approx(20 * math.log10(1 / 0.5))
    assert OutputNoise().worst_db == 300.0
