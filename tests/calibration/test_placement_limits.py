"""What Q/DQ placement leaves in float and why, and that the result computes what it should."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgedeploy.calibration import Range, load_rules, place, rule_names
from edgedeploy.core.errors import CalibrationError, RecipeError, UnknownNameError
from edgedeploy.core.parity import compare
from tests.support.qdq_nets import (
    RULES,
    Net,
    by_name,
    feed,
    initializers,
    is_float,
    origin,
    quantized,
    residual_block,
    run,
    source,
)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "group", "runs"),
    [
        (16, 16, 3, 1, True),
        (3, 32, 3, 1, True),  # a first layer, one side aligned
        (16, 9, 3, 1, True),
        (3, 6, 3, 1, False),
        (16, 16, 3, 16, True),  # depthwise
        (16, 16, 1, 16, False),
        (12, 12, 3, 12, False),
    ],
)
def test_thin_convolutions_stay_float(inputs: int, outputs: int, kernel: int, group: int, runs: bool) -> None:
    """P9."""
    net = Net(1, inputs, 8, 8)
    net.conv("a", "x", inputs, outputs, kernel, group)
    net.conv("keep", "x", inputs, 16, 3)
    result, report = quantized(net.model("a", "keep"))
    assert is_float(result, "a") != runs
    assert ("a" in [n.node for n in report.excluded]) != runs
    result, _ = quantized(net.model("a", "keep"), RULES.with_options(small_channels=False))
    assert not is_float(result, "a")


@pytest.mark.parametrize(
    ("rows", "depth", "width", "runs"), [(4, 16, 16, True), (1, 64, 64, False), (4, 8, 16, False)]
)
def test_thin_products_stay_float(rows: int, depth: int, width: int, runs: bool) -> None:
    """P9: matrix-vector products and small weights."""
    net = Net(rows, depth)
    net.op("MatMul", "a", "x", net.constant("w", depth, width))
    result, report = place(net.model("a"), {"x": Range(-3, 3)}, RULES)
    assert is_float(result, "a") != runs
    assert len(report.excluded) == (not runs)


def test_computed_weights_and_unknown_ranges_stay_float() -> None:
    net = Net(1, 16, 8, 8)
    net.op("Relu", "w", net.constant("raw", 16, 16, 3, 3))
    net.op("Conv", "dynamic", "x", "w")
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    net.conv("b", "r", 16, 16)
    result, report = quantized(net.model("dynamic", "b"), skip=["r"])
    assert {n.node: n.reason for n in report.excluded} == {
        "dynamic": "weight 'w' is not a constant",
        "b": "no range is known for its input 'r'",
    }
    assert is_float(result, "b")
    assert is_float(result, "b", 1)


def test_first_and_last_layers_can_stay_float() -> None:
    """P12."""
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r1", net.conv("a", "x", 16, 16))
    net.op("Relu", "r2", net.conv("b", "r1", 16, 16))
    model = net.model(net.conv("c", "r2", 16, 16))
    _, report = quantized(model, RULES.with_options(first=False, last=False))
    assert [n.node for n in report.quantized] == ["b"]
    assert [n.node for n in report.excluded] == ["a", "c"]


def test_quantization_goes_before_a_pad() -> None:
    net = Net(1, 16, 8, 8)
    net.weights["pads"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    net.op("Pad", "pad", "r", "pads")
    result, _ = quantized(net.model(net.conv("b", "pad", 16, 16, pads=[0, 0, 0, 0])))
    assert origin(result, "pad") == "r"
    assert source(result, "b") == by_name(result)["pad"]


def test_tensors_read_inside_a_subgraph_survive() -> None:
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    body = [
        helper.make_graph(
            [helper.make_node(kind, ["r"], [f"{kind}_out"], kind)],
            kind,
            [],
            [helper.make_tensor_value_info(f"{kind}_out", TensorProto.FLOAT, (1, 16, 8, 8))],
        )
        for kind in ("Neg", "Abs")
    ]
    net.weights["yes"] = np.array(True)
    net.op("If", "branch", "yes", then_branch=body[0], else_branch=body[1])
    model = net.model("branch", net.conv("b", "r", 16, 16))
    result, _ = quantized(model)
    assert compare(run(model, feed(model))[0], run(result, feed(model))[0]).sqnr_db > 30


def test_shared_weight_is_quantized_once() -> None:
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    net.op("Conv", "b", "r", "a_w")
    result, _ = quantized(net.model("b"))
    assert by_name(result)["a"].input[1] == by_name(result)["b"].input[1]
    assert sum(value.dtype == np.int8 and value.ndim == 4 for value in initializers(result).values()) == 1


def test_older_opsets_are_raised_and_said() -> None:
    net = Net(1, 16, 8, 8, opset=11)
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    model = net.model("r")
    result, report = quantized(model)
    assert result.opset_import[0].version == 19
    assert report.notes == ("opset raised from 11 to 19",)
    assert model.opset_import[0].version == 11
    assert result.metadata_props[0].key == "edgedeploy"


def test_the_argument_is_left_alone_and_quantizing_twice_is_refused() -> None:
    model = residual_block().model("y")
    before = model.SerializeToString()
    result, _ = quantized(model)
    assert model.SerializeToString() == before
    with pytest.raises(CalibrationError, match="already"):
        place(result, {}, RULES)


def fake(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    return np.clip(np.rint(values / scale), -128, 127) * scale


def test_int8_model_equals_fake_quantized_numpy() -> None:
    """A pointwise convolution and a residual Add, computed in float64 from the same scales."""
    net = Net(1, 16, 4, 4)
    net.op("Relu", "r0", net.conv("stem", "x", 16, 16, 1))
    net.op("Add", "sum", net.conv("a", "r0", 16, 16, 1), "r0")
    model = net.model("sum")
    result, report = quantized(model)
    x = feed(model)

    def pointwise(name: str, value: np.ndarray) -> np.ndarray:
        w = net.weights[f"{name}_w"][:, :, 0, 0].astype(np.float64)
        w = fake(w, np.float32(np.abs(w).max(axis=1, keepdims=True) / 127))
        return np.einsum("oi,nihw->nohw", w, value) + net.weights[f"{name}_b"][:, None, None]

    stem = np.maximum(pointwise("stem", fake(x.astype(np.float64), report.scales["x"])), 0)
    skip = fake(stem, report.scales["r0"])
    assert compare(pointwise("a", skip) + skip, run(result, x)[0]).max_rel < 1e-5


def test_everything_between_integer_kernels_is_quantized() -> None:
    """ONNX Runtime: outputs after the fused ReLU, int32 biases, Add and MaxPool, the graph's output too."""
    rules = load_rules("onnxruntime").with_options(last=True)
    net = residual_block()
    net.op("MaxPool", "pool", "y", kernel_shape=[2, 2])
    model = net.model("pool")
    result, report = quantized(model, rules)
    constants = initializers(result)
    assert {n.op for n in report.quantized} == {"Conv", "Add", "MaxPool"}
    for name in ("stem", "a"):
        assert source(result, by_name(result)["r0" if name == "stem" else "r1"].name) == by_name(result)[name]
        bias = source(result, name, 2)
        assert bias is not None
        assert constants[bias.input[0]].dtype == np.int32
    for position in (0, 1):
        assert not is_float(result, "sum", position)
    assert report.scales["y"] == report.scales["pool"]
    assert result.graph.output[0].name == "pool"
    last = next(n for n in result.graph.node if "pool" in n.output)
    assert last.op_type == "DequantizeLinear"
    assert compare(run(model, feed(model))[0], run(result, feed(model))[0]).sqnr_db > 25


def test_onnxruntime_runs_integer_kernels(tmp_path: Path) -> None:
    result, _ = quantized(residual_block().model("y"), load_rules("onnxruntime").with_options(last=True))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(result.SerializeToString(), options, ["CPUExecutionProvider"])
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == 3
    assert kinds["QLinearAdd"] == 1
    assert not kinds["Conv"]


def test_rule_sets_are_data() -> None:
    assert "tensorrt" in rule_names()
    with pytest.raises(UnknownNameError) as unknown:
        load_rules("tensort")
    assert "tensorrt" in unknown.value.hint
    with pytest.raises(RecipeError, match="concat"):
        RULES.with_options(concat="sometimes")
    with pytest.raises(RecipeError, match="residuals"):
        RULES.with_options(residuals=True)
