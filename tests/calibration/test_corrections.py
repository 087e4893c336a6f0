"""Corrections after placement: less error where theory says so, and the same nodes as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedeploy.calibration import load_rules, quantize
from edgedeploy.calibration.collect.moments import Moments
from edgedeploy.calibration.collect.values import values
from edgedeploy.calibration.correction import CORRECTIONS, AfterPlacement, Setting, make_corrections
from edgedeploy.calibration.corrections.adaround import AdaptiveRounding, _descend, _sequential
from edgedeploy.core.errors import RecipeError, UnknownNameError
from edgedeploy.core.parity import compare
from tests.support.qdq_nets import Net, run

RULES = load_rules("tensorrt").with_options(first=True, last=True, small_channels=False, corrections={})
AFTER = [name for name in CORRECTIONS.names() if issubclass(CORRECTIONS.get(name), AfterPlacement)]


def images(count: int = 6, channels: int = 8) -> list[dict[str, np.ndarray]]:
    """Non-negative, smooth in space and alike in all channels, as what follows a ReLU is."""
    rng = np.random.default_rng(3)
    result = []
    for _ in range(count):
        coarse = rng.random((1, 1, 5, 5)) + 0.2 * rng.random((1, channels, 5, 5))
        result.append({"x": np.kron(coarse, np.ones((4, 4))).astype(np.float32)})
    return result


def chain(kind: str) -> onnx.ModelProto:
    net = Net(1, 8, 20, 20)
    group = 8 if kind == "depthwise" else 2 if kind == "grouped" else 1
    first = net.conv("a", "x", 8, 8, group=group, strides=[2, 2], dilations=[1, 1])
    net.op("Relu", "r", first)
    if kind == "gemm":
        net.op("Flatten", "f", net.op("GlobalAveragePool", "p", "r"))
        net.op("Gemm", "y", "f", net.constant("w", 5, 8), net.constant("b", 5), transB=1)
    elif kind == "matmul":
        net.op("Reshape", "s", "r", net.constant("shape", 3))
        net.weights["shape"] = np.asarray([1, 8, 100], np.int64)  # type: ignore[assignment]
        net.op("Transpose", "t", "s", perm=[0, 2, 1])
        net.op("Add", "y", net.op("MatMul", "m", "t", net.constant("w", 8, 5)), net.constant("b", 5))
    else:
        net.conv("y", "r", 8, 8, group=group)
    return net.model("y")


def error(
    model: onnx.ModelProto, other: onnx.ModelProto, data: list[dict[str, np.ndarray]]
) -> tuple[float, float]:
    """Mean squared error, and the largest mean shift of a channel over its noise, on data."""
    pairs = [(run(model, feeds["x"])[0], run(other, feeds["x"])[0]) for feeds in data]
    noise = np.concatenate([(a - b).astype(np.float64) for a, b in pairs])
    axes = (0, 2, 3) if noise.ndim == 4 else tuple(range(noise.ndim - 1))
    return float((noise**2).mean()), float(np.abs(noise.mean(axis=axes)).max())


@pytest.mark.parametrize("rules", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("kind", ["dense", "depthwise", "grouped", "gemm", "matmul"])
@pytest.mark.parametrize("tool", AFTER)
def test_the_error_falls_on_calibration_data_and_the_graph_stays(tool: str, kind: str, rules: str) -> None:
    model, data = chain(kind), images()
    chosen = load_rules(rules).with_options(first=True, last=True, small_channels=False, corrections={})
    plain, better = (
        quantize(model, lambda: data, method="minmax", rules=chosen, corrections=tools)
        for tools in ((), (tool,))
    )
    onnx.checker.check_model(better.model, full_check=True)
    assert [n.op_type for n in better.model.graph.node] == [n.op_type for n in plain.model.graph.node]
    before, after = (error(model, result.model, data) for result in (plain, better))
    assert after[0] < before[0] * (1.02 if tool == "bias" else 1.0)
    assert len(better.report.placement.notes) == len(plain.report.placement.notes) + 1


@pytest.mark.parametrize("kind", ["dense", "depthwise", "matmul"])
def test_bias_correction_removes_the_mean_error(kind: str) -> None:
    """Inputs of one sign: rounding errors of weights do not average out, but shift each channel's mean."""
    model, data = chain(kind), images(12)
    options: dict[str, Any] = {"method": "minmax", "rules": RULES}
    plain = quantize(model, lambda: data, corrections=(), **options).model
    better = quantize(model, lambda: data, corrections=("bias",), **options).model
    assert error(model, better, data)[1] < 0.35 * error(model, plain, data)[1]


def test_adaptive_rounding_gains_where_inputs_are_correlated() -> None:
    """Weights that see alike inputs: errors of one are made up for by the others."""
    model, data = chain("dense"), images(12)
    options: dict[str, Any] = {"method": "minmax", "rules": RULES}
    plain = quantize(model, lambda: data, corrections=("bias",), **options).model
    better = quantize(model, lambda: data, corrections=("adaround", "bias"), **options).model
    reference = run(model, data[0]["x"])[0]
    gain = compare(reference, run(better, data[0]["x"])[0]).sqnr_db
    gain -= compare(reference, run(plain, data[0]["x"])[0]).sqnr_db
    assert gain > 0.5


def test_moments_hold_where_the_mean_is_far_above_the_spread(rng: np.random.Generator) -> None:
    x = (3000 + rng.standard_normal((1, 5000, 16))).astype(np.float32)
    moments = Moments(1, 16)
    for part in np.split(x, 10, axis=1):
        moments.add(part)
    moments.finish()
    exact = x[0].astype(np.float64)
    np.testing.assert_allclose(moments.mean[0], exact.mean(0), rtol=1e-9)
    np.testing.assert_allclose(moments.covariance[0], np.cov(exact.T, bias=True), atol=1e-3)
    np.testing.assert_allclose(moments.second[0], exact.T @ exact / len(exact), rtol=1e-6)


def test_rounding_serves_an_input_whose_mean_is_far_above_its_spread(rng: np.random.Generator) -> None:
    net = Net(1, 32, 6, 6)
    net.conv("y", net.op("Relu", "r", net.conv("a", "x", 32, 32)), 32, 8)
    model = net.model("y")
    data = [{"x": (3000 + rng.standard_normal((1, 32, 6, 6))).astype(np.float32)} for _ in range(12)]
    options = {"rules": RULES, "method": "minmax"}
    plain = quantize(model, lambda: data, corrections=(), **options).model
    better = quantize(model, lambda: data, corrections=("adaround", "bias"), **options).model
    assert error(model, better, data)[0] < error(model, plain, data)[0]


def test_a_covariance_that_is_not_positive_definite_leaves_codes_no_worse(rng: np.random.Generator) -> None:
    w = rng.standard_normal((4, 6)) * 20
    nearest = np.rint(w)
    c = np.eye(6)
    c[0, 0] = -1.0  # what rounding can make of a variance
    solved = AdaptiveRounding().solve(w, nearest, c)
    assert np.abs(solved - w).max() < 128


def test_rounding_is_never_worse_and_nearly_the_best_there_is(rng: np.random.Generator) -> None:
    """Against all 3^6 roundings of a row of six weights."""
    root = rng.standard_normal((6, 6)) + 1.5
    c = root @ root.T / 6
    w = rng.uniform(-100, 100, (40, 6))
    nearest = np.rint(w)
    q = AdaptiveRounding(damping=1e-6).solve(w, nearest, c)
    moves = np.stack(np.meshgrid(*[[-1, 0, 1]] * 6, indexing="ij"), -1).reshape(-1, 6)
    ratios = []
    for row, start, chosen in zip(w, nearest, q, strict=True):
        errors = row - (start + moves)
        best = ((errors @ c) * errors).sum(axis=1).min()
        own, first = (float((row - k) @ c @ (row - k)) for k in (chosen, start))
        assert own <= first * (1 + 1e-9)
        ratios.append(own / best)
    assert np.median(ratios) < 1.3
    assert np.abs(q).max() <= 127


def correlated(rng: np.random.Generator, depth: int) -> np.ndarray:
    root = rng.standard_normal((depth, depth)) + 0.5
    return root @ root.T / depth + 0.05 * np.eye(depth)


def test_blocks_of_columns_round_as_one_column_after_the_other_does(rng: np.random.Generator) -> None:
    """Against GPTQ as published: the error of each column moved on through the inverse of what is left."""
    depth = 150  # two whole blocks and a part
    c, w = correlated(rng, depth), rng.uniform(-100, 100, (7, depth))
    left, q, open_columns = w.copy(), np.zeros_like(w), list(range(depth))
    for column in np.argsort(-np.diag(c), kind="stable"):
        inverse = np.linalg.inv(c[np.ix_(open_columns, open_columns)])
        place = open_columns.index(column)
        q[:, column] = np.clip(np.rint(left[:, column]), -127, 127)
        error = (left[:, column] - q[:, column]) / inverse[place, place]
        left[:, open_columns] -= error[:, None] * inverse[place]
        open_columns.remove(column)
    np.testing.assert_array_equal(_sequential(w, c), q)


def test_descent_ends_where_no_single_code_can_gain(rng: np.random.Generator) -> None:
    depth = 150
    c, w = correlated(rng, depth), rng.uniform(-100, 100, (7, depth))
    q = np.rint(w)
    _descend(w, q, c, sweeps=50)
    gradient = (w - q) @ c
    # A move of one unit changes the cost by C_jj -+ 2 gradient_j.
    assert (np.diag(c) - 2 * np.abs(gradient) > -1e-6).all()


@pytest.mark.parametrize("known", [True, False])
def test_means_are_taken_of_a_sample_of_many_inputs(known: bool) -> None:
    inputs = [{"x": np.full((1, 8, 20, 20), number, np.float32)} for number in range(200)]
    setting = Setting(RULES, lambda: inputs if known else iter(inputs))
    seen = [float(found["x"].mean()) for found in values(chain("dense"), ["x"], setting, at_most=5)]
    assert seen == ([0, 40, 80, 120, 160] if known else [0, 1, 2, 3, 4])
    assert len(list(values(chain("dense"), ["x"], setting))) == 200


def test_codes_keep_their_scales_and_move_little() -> None:
    model, data = chain("dense"), images()
    plain, better = (
        quantize(model, lambda: data, method="minmax", rules=RULES, corrections=tools).model
        for tools in ((), ("adaround",))
    )
    before, after = (
        {entry.name: numpy_helper.to_array(entry) for entry in result.graph.initializer}
        for result in (plain, better)
    )
    for name, value in before.items():
        if name.endswith("_scale"):
            np.testing.assert_array_equal(value, after[name])
        if name.endswith("_w_quantized"):
            assert 0 < np.abs(value.astype(int) - after[name]).max() < 32


def test_names_and_options_are_checked() -> None:
    with pytest.raises(UnknownNameError) as unknown:
        make_corrections({"adarond": {}})
    assert "adaround" in unknown.value.hint
    with pytest.raises(RecipeError, match="has no option dampening"):
        make_corrections({"adaround": {"dampening": 1}})
    with pytest.raises(RecipeError, match="damping must be positive"):
        make_corrections({"adaround": {"damping": 0}})
    order = [type(tool).__name__ for tool in make_corrections({"bias": {}, "adaround": {}, "equalize": {}})]
    assert order == ["Equalize", "AdaptiveRounding", "BiasCorrection"]
