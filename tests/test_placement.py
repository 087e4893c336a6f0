"""Q/DQ placement, rule by rule, on graphs small enough to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgedeploy.calibration import PlacementReport, Range, RuleSet, load_rules, place, rule_names, wanted
from edgedeploy.core.errors import CalibrationError, RecipeError, UnknownNameError
from edgedeploy.core.parity import compare

RULES = load_rules("tensorrt").with_options(first=True, last=True)  # most graphs here are a layer or two deep


class Net:
    """A model built node by node; every node's output is named like the node."""

    def __init__(self, *shape: int, opset: int = 20) -> None:
        self.shape, self.opset = shape, opset
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(7)

    def op(self, kind: str, name: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, list(outputs) or [name], name, **attributes))
        return name

    def constant(self, name: str, *shape: int) -> str:
        self.weights[name] = (self.rng.standard_normal(shape) * 0.2).astype(np.float32)
        return name

    def conv(
        self, name: str, x: str, inputs: int, outputs: int, kernel: int = 3, group: int = 1, **more: Any
    ) -> str:
        w = self.constant(f"{name}_w", outputs, inputs // group, kernel, kernel)
        b = self.constant(f"{name}_b", outputs)
        more.setdefault("pads", [kernel // 2] * 4)
        return self.op("Conv", name, x, w, b, group=group, **more)

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        model.metadata_props.add(key="edgedeploy", value="{}")
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)  # outputs need their shapes
        del model.graph.value_info[:]
        onnx.checker.check_model(model, full_check=True)
        return model


def run(model: onnx.ModelProto, x: np.ndarray, *names: str) -> list[np.ndarray]:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(list(names) or None, {"x": x})


def quantized(
    model: onnx.ModelProto, rules: RuleSet = RULES, skip: Sequence[str] = ()
) -> tuple[onnx.ModelProto, PlacementReport]:
    """The model placed with the exact ranges of one random input."""
    x = feed(model)
    names = [name for name in wanted(model, rules) if name != "x"]
    values = dict(zip(names, run(model, x, *names), strict=True)) if names else {}
    values["x"] = x
    ranges = {k: Range(float(v.min()), float(v.max())) for k, v in values.items() if k not in skip}
    result, report = place(model, ranges, rules)
    onnx.checker.check_model(result, full_check=True)
    assert all(note.reason for note in report.excluded)
    return result, report


def feed(model: onnx.ModelProto) -> np.ndarray:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def by_name(model: onnx.ModelProto) -> dict[str, NodeProto]:
    return {node.name: node for node in model.graph.node}


def source(model: onnx.ModelProto, node: str, position: int = 0) -> NodeProto | None:
    """The node that makes an input of a node."""
    name = by_name(model)[node].input[position]
    return next((n for n in model.graph.node if name in n.output), None)


def origin(model: onnx.ModelProto, node: str, position: int = 0) -> str:
    """The float tensor behind a quantised input; fails if the input is not quantised."""
    dequantize = source(model, node, position)
    assert dequantize is not None
    assert dequantize.op_type == "DequantizeLinear"
    quantize = source(model, dequantize.name)
    assert quantize is not None
    assert quantize.op_type == "QuantizeLinear"
    return quantize.input[0]


def is_float(model: onnx.ModelProto, node: str, position: int = 0) -> bool:
    producer = source(model, node, position)
    return producer is None or producer.op_type != "DequantizeLinear"


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


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
    """H5 with the weight-only form; P1: both inputs of a weighted operator are quantised."""
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


def residual_block() -> Net:
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r0", net.conv("stem", "x", 16, 16))
    net.op("Relu", "r1", net.conv("a", "r0", 16, 16))
    net.op("Add", "sum", net.conv("b", "r1", 16, 16), "r0")
    net.op("Relu", "y", "sum")
    return net


def test_residual_add_quantises_the_skip_alone_and_reuses_its_pair() -> None:
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


def test_quantisation_goes_before_a_pad() -> None:
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


def test_shared_weight_is_quantised_once() -> None:
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


def test_the_argument_is_left_alone_and_quantising_twice_is_refused() -> None:
    model = residual_block().model("y")
    before = model.SerializeToString()
    result, _ = quantized(model)
    assert model.SerializeToString() == before
    with pytest.raises(CalibrationError, match="already"):
        place(result, {}, RULES)


def fake(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    return np.clip(np.rint(values / scale), -128, 127) * scale


def test_int8_model_equals_fake_quantised_numpy() -> None:
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


def test_everything_between_integer_kernels_is_quantised() -> None:
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
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(result.SerializeToString(), options, ["CPUExecutionProvider"])
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node)
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
