"""Channel equalization changes no number in float, and makes INT8 better where channels differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.calibration import load_rules, quantize
from edgedeploy.calibration.corrections.equalize import candidates, equalize, factors
from edgedeploy.calibration.place.planner import make_plan
from edgedeploy.calibration.place.weights import quantize_weight
from edgedeploy.core.parity import compare
from edgedeploy.graphs.view import GraphView

RULES = load_rules("tensorrt").with_options(first=True, last=True)


def corrections(strength: float) -> dict[str, dict[str, Any]]:
    return {"equalize": {"strength": strength}}


def network(activation: str, *, bias: bool = True, skip: bool = False) -> onnx.ModelProto:
    """Two convolutions whose inner channels differ a hundredfold in size."""
    rng = np.random.default_rng(5)
    spread = np.geomspace(0.02, 2.0, 16)[:, None, None, None]
    weights = {
        "w1": rng.standard_normal((16, 16, 3, 3)) * 0.1 * spread,
        "b1": rng.standard_normal(16) * spread.ravel(),
        "w2": rng.standard_normal((16, 16, 3, 3)) / spread.reshape(1, -1, 1, 1) * 0.05,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", *(["b1"] if bias else [])], ["a"], "a", pads=[1] * 4),
        helper.make_node(activation, ["a"], ["m"], "m"),
        helper.make_node("Conv", ["m", "w2"], ["y"], "y", pads=[1] * 4),
    ]
    outputs = ["y"]
    if skip:
        nodes.append(helper.make_node("AveragePool", ["m"], ["z"], "z", kernel_shape=[2, 2]))
        outputs.append("z")
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 16, 8, 8))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 16, None, None)) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Tanh", "Sigmoid"])
def test_the_float_model_computes_the_same(activation: str, bias: bool, rng: np.random.Generator) -> None:
    model = network(activation, bias=bias)
    peaks = {"m": np.geomspace(0.01, 1.0, 16)}
    result = equalize(model, {name: factors(peak, 0.8) for name, peak in peaks.items()})
    onnx.checker.check_model(result, full_check=True)
    x = rng.standard_normal((1, 16, 8, 8)).astype(np.float32)
    assert compare(run(model, x), run(result, x)).max_rel < 1e-5
    added = [node.op_type for node in result.graph.node].count("Mul")
    assert added == (activation in {"Tanh", "Sigmoid"})
    names = {entry.name for entry in result.graph.initializer}
    assert "w2" not in names
    assert ("w1" in names) == bool(added)


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_int8_gains_where_channels_differ(activation: str, rng: np.random.Generator) -> None:
    model = network(activation)
    data = [{"x": rng.standard_normal((1, 16, 8, 8)).astype(np.float32)} for _ in range(4)]
    reference = run(model, data[0]["x"])
    off, on = (
        quantize(model, lambda: data, method="minmax", rules=RULES, corrections=corrections(strength))
        for strength in (0.0, 1.0)
    )
    gain = (
        compare(reference, run(on.model, data[0]["x"])).sqnr_db
        - compare(reference, run(off.model, data[0]["x"])).sqnr_db
    )
    assert gain > 3
    assert on.report.placement.notes == ("channels of 1 tensors equalized",)


def test_weights_listed_as_inputs(rng: np.random.Generator) -> None:
    model = network("Relu")
    for entry in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(entry.name, TensorProto.FLOAT, entry.dims))
    model.ir_version = 3
    data = [{"x": rng.standard_normal((1, 16, 8, 8)).astype(np.float32)}]
    result = quantize(model, lambda: data, rules=RULES, corrections=corrections(0.5)).model
    assert [value.name for value in result.graph.input] == ["x"]
    assert compare(run(model, data[0]["x"]), run(result, data[0]["x"])).sqnr_db > 25


def test_tensors_with_other_readers_are_left_alone() -> None:
    for skip in (False, True):
        view = GraphView(network("Relu", skip=skip))
        assert candidates(view, make_plan(view, RULES)) == ([] if skip else ["m"])


def test_factors_are_bounded() -> None:
    np.testing.assert_allclose(factors(np.array([4.0, 1.0, 0.0]), 0.5), [1.0, 0.5, 1 / 64])
    np.testing.assert_array_equal(factors(np.zeros(3), 0.5), np.ones(3))


def test_weights_that_lie_on_the_grid_already_are_left_alone(rng: np.random.Generator) -> None:
    """Quantization-aware training leaves such weights: quantizing them loses nothing, any factor would."""
    model = network("Tanh")
    for entry in model.graph.initializer:
        if entry.name == "w2":
            w = numpy_helper.to_array(entry)
            codes, scale = quantize_weight(w, 0)
            snapped = (codes * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
            entry.CopyFrom(numpy_helper.from_array(snapped, "w2"))
    data = [{"x": rng.standard_normal((1, 16, 8, 8)).astype(np.float32)}]
    result = quantize(model, lambda: data, method="minmax", rules=RULES, corrections=corrections(1.0))
    assert result.report.placement.notes == ()
    assert "Mul" not in {node.op_type for node in result.model.graph.node}


def test_a_last_layer_that_was_trained_for_int8_is_quantized(rng: np.random.Generator) -> None:
    rules = load_rules("openvino").with_options(last=False, small_channels=False)
    data = [{"x": rng.standard_normal((1, 16, 8, 8)).astype(np.float32)}]
    plain = network("Relu")
    snapped = onnx.ModelProto()
    snapped.CopyFrom(plain)
    for entry in snapped.graph.initializer:
        if entry.name == "w2":
            codes, scale = quantize_weight(numpy_helper.to_array(entry), 0)
            values = (codes * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
            entry.CopyFrom(numpy_helper.from_array(values, "w2"))
    counts = [
        len(quantize(model, lambda: data, rules=rules).report.placement.quantized)
        for model in (plain, snapped)
    ]
    assert counts[1] == counts[0] + 1
