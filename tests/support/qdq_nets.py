"""Small nets for Q/DQ placement, built node by node, and questions to ask of the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgedeploy.calibration import PlacementReport, Range, RuleSet, load_rules, place, wanted

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
    """The float tensor behind a quantized input; fails if the input is not quantized."""
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


def residual_block() -> Net:
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r0", net.conv("stem", "x", 16, 16))
    net.op("Relu", "r1", net.conv("a", "r0", 16, 16))
    net.op("Add", "sum", net.conv("b", "r1", 16, 16), "r0")
    net.op("Relu", "y", "sum")
    return net
