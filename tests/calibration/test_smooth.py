"""SmoothQuant: the float model computes the same, and outliers of a transformer's activations cost less."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedeploy.calibration import load_rules, quantize
from edgedeploy.calibration.corrections.smooth import SmoothQuant, readable, slots, smooth
from edgedeploy.core.parity import compare
from edgedeploy.graphs.view import GraphView
from tests.support.qdq_nets import Net, run

RULES = load_rules("tensorrt").with_options(first=True, last=True, small_channels=False, corrections={})
KINDS = ["norm", "affine", "linear", "relu", "gemm"]


def block(kind: str, outliers: float = 60.0) -> onnx.ModelProto:
    """What precedes two products that read one tensor `t`, with three outliers that q weighs less."""
    rank = (1, 12, 16) if kind != "gemm" else (12, 16)
    net = Net(*rank)
    spread = np.ones(16, np.float32)
    spread[[2, 7, 11]] = outliers
    if kind == "norm":
        net.op("LayerNormalization", "t", "x", net.constant("g", 16), net.constant("s", 16), axis=-1)
        net.weights["g"] = spread
    elif kind == "affine":
        net.op("Add", "t", net.op("Mul", "m", "x", net.constant("g", 16)), net.constant("s", 1, 1, 16))
        net.weights["g"] = spread
    elif kind == "gemm":
        net.op("Gemm", "t", "x", net.constant("g", 16, 16), net.constant("s", 16), transB=1)
        net.weights["g"] = net.weights["g"] * spread[:, None]
    else:
        product = net.op("MatMul", "p", "x", net.constant("g", 16, 16))
        net.weights["g"] = net.weights["g"] * spread
        last = net.op("Add", "t" if kind == "linear" else "a", product, net.constant("s", 16))
        if kind == "relu":
            net.op("Relu", "t", last)
    if kind == "gemm":
        net.op("Gemm", "q", "t", net.constant("wq", 8, 16), net.constant("bq", 8), transB=1)
        net.op("Gemm", "k", "t", net.constant("wk", 16, 8))
    else:
        net.op("MatMul", "q", "t", net.constant("wq", 16, 8))
        net.op("MatMul", "k", "t", net.constant("wk", 16, 8))
    net.weights["wq"] = net.weights["wq"] / (spread if kind == "gemm" else spread[:, None])
    net.op("Mul", "y", "q", "k")
    return net.model("y")


def inputs(model: onnx.ModelProto, count: int = 4) -> list[dict[str, np.ndarray]]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_float_model_computes_the_same_without_another_node(kind: str, rng: np.random.Generator) -> None:
    model = block(kind)
    result = smooth(model, {"t": rng.uniform(0.05, 20, 16)})
    onnx.checker.check_model(result, full_check=True)
    x = inputs(model)[0]["x"]
    assert compare(run(model, x)[0], run(result, x)[0]).max_rel < 1e-5
    assert [n.op_type for n in result.graph.node] == [n.op_type for n in model.graph.node]
    changed = compare(run(model, x, "t")[0], run(result, x, "t")[0]).max_rel
    assert changed > 0.1  # it is the tensor that INT8 sees
    names = {entry.name for entry in result.graph.initializer}
    assert not {"wq", "wk", "g"} & names  # their copies are what is read


@pytest.mark.parametrize("kind", KINDS)
def test_int8_gains_where_few_channels_are_outliers(kind: str) -> None:
    model = block(kind)
    data = inputs(model)
    noise = []
    for tools in ({}, {"smooth": {}}):
        result = quantize(model, lambda: data, method="minmax", rules=RULES, corrections=tools)
        onnx.checker.check_model(result.model, full_check=True)
        reference = run(model, data[0]["x"], "q")[0]
        noise.append(compare(reference, run(result.model, data[0]["x"], "q")[0]).sqnr_db)
    assert noise[1] > noise[0] + 2
    assert result.report.placement.notes[-1] == "outliers of 1 tensors smoothed into weights"


def test_a_mul_is_put_only_where_asked_for() -> None:
    net = Net(1, 12, 16)
    net.op("MatMul", "y", net.op("Sigmoid", "t", "x"), net.constant("w", 16, 8))
    model = net.model("y")
    data = inputs(model)
    for multiply in (False, True):
        options = {"smooth": {"multiply": multiply}}
        result = quantize(model, lambda: data, method="minmax", rules=RULES, corrections=options).model
        assert [n.op_type for n in result.graph.node].count("Mul") == multiply
        x = data[0]["x"]
        assert compare(run(model, x)[0], run(result, x)[0]).sqnr_db > 30


def test_what_else_reads_the_tensor_forbids_it() -> None:
    model = block("norm")
    assert readable(GraphView(model), "t")
    assert slots(GraphView(model), "t") == [(0, 1, -1), (0, 2, -1)]
    view = GraphView(model)
    view.consumers["t"].append((3, 0))  # the Mul
    assert not readable(view, "t")


def test_scales_are_bounded_and_follow_the_formula() -> None:
    w = np.array([[2.0, -8.0], [0.5, 0.1], [0.0, 0.0]])
    s = SmoothQuant(alpha=0.5).scales(np.array([4.0, 100.0, 3.0]), w)
    np.testing.assert_allclose(s[:2], [(4 / 8) ** 0.5, (100 / 0.5) ** 0.5])
    assert SmoothQuant(alpha=1.0).scales(np.array([1e9, 1.0]), np.ones((2, 3))).min() >= 1e6
    with pytest.raises(ValueError, match="alpha"):
        SmoothQuant(alpha=1.5)


def test_constants_that_others_read_stay(rng: np.random.Generator) -> None:
    model = block("norm")
    model.graph.node[-1].input[1] = "q"  # so that wk is read by nothing that is kept
    model.graph.node.append(onnx.helper.make_node("Add", ["x", "g"], ["z"], "z"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, (1, 12, 16)))
    result = smooth(model, {"t": rng.uniform(0.1, 9, 16)})
    x = inputs(model)[0]["x"]
    for before, after in zip(run(model, x, "y", "z"), run(result, x, "y", "z"), strict=True):
        assert compare(before, after).max_rel < 1e-5
    kept = {entry.name: numpy_helper.to_array(entry) for entry in result.graph.initializer}
    assert "g" in kept
