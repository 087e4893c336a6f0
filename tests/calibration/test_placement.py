"""Q/DQ placement, rule by rule, on graphs small enough to see."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.calibration import Range, place
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


def test_symmetric_int8_everywhere_and_biases_in_float() -> None:
    """H1: int8, zero-point 0, positive scales. H3: the bias keeps its float values."""
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r", net.conv("a", "x", 16, 32))
    model = net.model(net.conv("b", "r", 32, 16))
    result, _ = quantized(model)
    constants = initializers(result)
    pairs = [n for n in result.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert Counter(n.op_type for n in pairs) == {"QuantizeLinear": 2, "DequantizeLinear": 4}
    for node in pairs:
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        assert scale.dtype == np.float32
        assert zero.dtype == np.int8
        assert (scale > 0).all()
        assert not zero.any()
    for name in ("a", "b"):
        bias = by_name(result)[name].input[2]
        np.testing.assert_array_equal(constants[bias], net.weights[f"{name}_b"])


def test_weights_are_int8_initializers_and_the_float_ones_are_gone() -> None:
    """H5 with the weight-only form; P1: both inputs of a weighted operator are quantized."""
    net = Net(1, 16, 8, 8)
    model = net.model(net.conv("a", "x", 16, 32))
    result, report = quantized(model)
    assert "a_w" not in initializers(result)
    dequantize = source(result, "a", 1)
    assert dequantize is not None
    codes, scale, _ = (initializers(result)[name] for name in dequantize.input)
    assert codes.dtype == np.int8
    assert np.abs(codes).max(axis=(1, 2, 3)).tolist() == [127] * 32
    w = net.weights["a_w"]
    assert (np.abs(codes * scale[:, None, None, None] - w) <= scale[:, None, None, None] * 0.5001).all()
    assert origin(result, "a") == "x"
    assert [note.node for note in report.quantized] == ["a"]
    assert result.metadata_props[0].key == "edgedeploy"


def test_weight_given_by_a_constant_node_or_listed_as_input() -> None:
    net = Net(1, 16, 8, 8)
    net.conv("a", "x", 16, 16)
    w = net.weights.pop("a_w")
    net.nodes.insert(0, helper.make_node("Constant", [], ["a_w"], "c", value=numpy_helper.from_array(w)))
    result, _ = quantized(net.model("a"))
    assert "c" not in by_name(result)
    net = Net(1, 16, 8, 8)
    model = net.model(net.conv("a", "x", 16, 16))
    model.graph.input.append(helper.make_tensor_value_info("a_w", TensorProto.FLOAT, (16, 16, 3, 3)))
    result, _ = quantized(model)
    assert [value.name for value in result.graph.input] == ["x"]


@pytest.mark.parametrize(
    ("kind", "shape", "attributes", "axis"),
    [
        ("Conv", (32, 16, 3, 3), {}, 0),
        ("ConvTranspose", (16, 32, 3, 3), {}, 1),
        ("ConvTranspose", (16, 16, 3, 3), {"group": 2}, None),
        ("Gemm", (16, 32), {}, 1),
        ("Gemm", (32, 16), {"transB": 1}, 0),
        ("MatMul", (16, 32), {}, 1),
    ],
)
def test_weight_axis_per_operator(
    kind: str, shape: tuple[int, ...], attributes: Any, axis: int | None
) -> None:
    """H4."""
    net = Net(*((4, 16) if kind in {"Gemm", "MatMul"} else (1, 16, 8, 8)))
    net.op(kind, "y", "x", net.constant("w", *shape), **attributes)
    model = net.model("y")
    result, _ = quantized(model)
    dequantize = source(result, "y", 1)
    assert dequantize is not None
    found = {a.name: a.i for a in dequantize.attribute}.get("axis")
    scale = initializers(result)[dequantize.input[1]]
    assert found == axis
    assert scale.shape == (() if axis is None else (shape[axis],))
    agreement = compare(run(model, feed(model))[0], run(result, feed(model))[0])
    assert agreement.sqnr_db > 30


def test_outputs_of_weighted_operators_stay_float() -> None:
    """P2: nothing between a convolution, its activation and the graph's output."""
    net = Net(1, 16, 8, 8)
    net.op("Sigmoid", "s", net.conv("a", "x", 16, 16))
    result, _ = quantized(net.model("s"))
    assert is_float(result, "s")
    assert source(result, "s") == by_name(result)["a"]


def test_residual_add_quantizes_the_skip_alone_and_reuses_its_pair() -> None:
    """P3, and P4: the skip and the block's first convolution read one Q/DQ."""
    result, report = quantized(residual_block().model("y"))
    assert is_float(result, "sum", 0)
    assert origin(result, "sum", 1) == "r0"
    assert by_name(result)["sum"].input[1] == by_name(result)["a"].input[0]
    assert [note.node for note in report.quantized] == ["stem", "a", "b", "sum"]
    assert report.pairs == 3


def test_residual_with_a_convolution_on_the_skip() -> None:
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r1", net.conv("a", "x", 16, 16))
    net.conv("b", "r1", 16, 16)
    net.op("Add", "sum", net.conv("down", "x", 16, 16, kernel=1), "b")
    result, _ = quantized(net.model("sum"))
    assert origin(result, "sum", 0) == "down"
    assert is_float(result, "sum", 1)


def test_residual_rule_can_be_off_and_says_why_it_skips() -> None:
    result, _ = quantized(residual_block().model("y"), RULES.with_options(residual_add=False))
    assert is_float(result, "sum", 1)
    net = Net(1, 16, 8, 8)
    net.op("Add", "even", net.conv("a", "x", 16, 16), net.conv("b", "x", 16, 16))
    _, report = quantized(net.model("even"))
    assert [(n.node, "equally far" in n.reason) for n in report.excluded] == [("even", True)]
    net = Net(1, 16, 8, 8)
    net.op("Add", "sum", net.op("Sigmoid", "s", "x"), "x")
    net.conv("a", "sum", 16, 16)
    _, report = quantized(net.model("a"))
    assert [n.node for n in report.excluded] == ["sum"]


def test_convolution_that_is_its_own_common_ancestor_is_no_residual() -> None:
    """P3: ConvNeXt's block adds to the output of a convolution."""
    net = Net(1, 16, 8, 8)
    net.conv("stem", "x", 16, 16)
    net.op("Add", "sum", net.conv("a", "stem", 16, 16), "stem")
    result, report = quantized(net.model("sum"))
    assert is_float(result, "sum", 0)
    assert is_float(result, "sum", 1)
    assert [n.reason for n in report.excluded] == ["the common ancestor is the weighted operator itself"]


def test_one_pair_per_tensor_and_other_readers_keep_the_float_one() -> None:
    """P4; P6: AveragePool does not commute, so it reads and writes float."""
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    outputs = [net.conv("b", "r", 16, 16), net.conv("c", "r", 16, 32)]
    net.op("AveragePool", "pool", "r", kernel_shape=[2, 2])
    result, report = quantized(net.model(*outputs, "pool", "r"))
    assert by_name(result)["b"].input[0] == by_name(result)["c"].input[0]
    assert sum(n.op_type == "QuantizeLinear" for n in result.graph.node) == report.pairs == 2
    assert source(result, "pool") == by_name(result)["r"]
    assert [o.name for o in result.graph.output] == ["b", "c", "pool", "r"]


@pytest.mark.parametrize("kind", ["MaxPool", "DepthToSpace", "Transpose"])
def test_values_that_are_only_moved_keep_their_scale(kind: str) -> None:
    """P5: what comes out of a commuting operator has the scale of what went in, and it reads the one Q/DQ."""
    attributes = {
        "MaxPool": {"kernel_shape": [2, 2]},
        "DepthToSpace": {"blocksize": 2},
        "Transpose": {"perm": [0, 1, 3, 2]},
    }[kind]
    net = Net(1, 64, 8, 8)
    net.op("Relu", "r", net.conv("a", "x", 64, 64))
    net.conv("b", "r", 64, 64)
    net.op(kind, "moved", "r", **attributes)
    net.conv("c", "moved", 16 if kind == "DepthToSpace" else 64, 64)
    model = net.model("b", "c")
    _, tied = place(model, {"x": Range(-3, 3), "r": Range(0, 5), "moved": Range(0, 4)}, RULES)
    assert tied.scales["moved"] == tied.scales["r"] == pytest.approx(5 / 127)
    result, report = quantized(model)
    assert report.scales["r"] == report.scales["moved"]
    assert origin(result, "moved") == "r"
    assert origin(result, "c") == "moved"
    assert by_name(result)["moved"].input[0] == by_name(result)["b"].input[0]


def test_branches_of_a_split_share_a_scale() -> None:
    net = Net(1, 32, 8, 8)
    net.op("Split", "split", "x", outputs=["left", "right"], axis=1, num_outputs=2)
    result, report = quantized(net.model(net.conv("a", "left", 16, 16), net.conv("b", "right", 16, 16)))
    assert report.scales["left"] == report.scales["right"]
    assert is_float(result, "split")


def test_concat_after_or_shared() -> None:
    """P7: one scale for all inputs and the output, across chained Concats; or Q/DQ on the output alone."""
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    net.op("Sigmoid", "s", net.conv("b", "x", 16, 16))
    net.op("Concat", "inner", "r", "s", axis=1)
    net.op("Concat", "outer", "inner", "x", axis=1)
    model = net.model(net.conv("c", "outer", 48, 16))
    after, _ = quantized(model)
    assert is_float(after, "inner", 0)
    assert origin(after, "c") == "outer"
    shared, report = quantized(model, RULES.with_options(concat="shared"))
    assert len({report.scales[name] for name in ("r", "s", "inner", "x", "outer")}) == 1
    assert [origin(shared, "inner", i) for i in (0, 1)] == ["r", "s"]
    assert [origin(shared, "outer", i) for i in (0, 1)] == ["inner", "x"]
