"""Small ONNX files for tests of what loads, builds and runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 20, 10


def save_convolutions(path: Path, shape: Sequence[int | str]) -> Path:
    """x -> conv1 (3 to 8) -> relu -> conv2 (8 to 8) -> y, 3x3, padded; sizes of y as of x."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=(8, channels, 3, 3)).astype(np.float32) / 5, name)
        for name, channels in (("w1", 3), ("w2", 8))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["y"], name="conv2", pads=[1, 1, 1, 1]),
    ]
    return _save(path, nodes, weights, {"x": shape}, {"y": [shape[0], 8, *shape[2:]]})


def save_sensitive(path: Path, shape: Sequence[int], gain: float = 1e4) -> Path:
    """y = sin(gain * convolution of x): the last bit of x moves y by some gain * 2^-23."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32) / 5,
        "gain": np.float32(gain),
    }
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["a", "gain"], ["b"], name="gain_it"),
        helper.make_node("Sin", ["b"], ["y"], name="sin"),
    ]
    return _save(path, nodes, tensors, {"x": shape}, {"y": [shape[0], 8, *shape[2:]]})


def save_quantized(path: Path, shape: Sequence[int], levels: int = 127) -> Path:
    """The same first convolution in int8: Q/DQ on its input and, per channel, on its weights.

    With 63 levels no CPU's kernels saturate.
    """
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, 3, 3, 3)).astype(np.float32) / 5
    scale = np.abs(w).max(axis=(1, 2, 3)) / np.float32(levels)
    constants = {
        "sx": np.float32(4 / 127), "zx": np.int8(0), "w": w, "sw": scale, "zw": np.zeros(8, np.int8),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], name="q_x"),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], name="dq_x"),
        helper.make_node("QuantizeLinear", ["w", "sw", "zw"], ["wq"], name="q_w", axis=0),
        helper.make_node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], name="dq_w", axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    return _save(path, nodes, tensors, {"x": shape}, {"y": [shape[0], 8, *shape[2:]]})


def save_int32_bias(path: Path) -> Path:
    """A bias that DequantizeLinear makes of int32: ONNX Runtime's quantizer does so, TensorRT refuses."""
    constants = {
        "w": np.ones((8, 3, 3, 3), np.float32), "b": np.ones(8, np.int32), "sb": np.full(8, 0.1, np.float32),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    nodes = [
        helper.make_node("DequantizeLinear", ["b", "sb"], ["bd"], name="dq_bias", axis=0),
        helper.make_node("Conv", ["x", "w", "bd"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    return _save(path, nodes, tensors, {"x": [1, 3, 8, 8]}, {"y": [1, 8, 8, 8]})


def save_unsupported(path: Path) -> Path:
    """A node `odd` of an operator that nobody has, Frobnicate of domain com.example."""
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="com.example")
    return _save(path, [node], [], {"x": [1, 3, 8, 8]}, {"y": [1, 3, 8, 8]}, ("com.example",))


def save_two_inputs(path: Path) -> Path:
    """sum = a + b and product = a * b, both (2, 3): names, order and the number of outputs matter."""
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["product"], name="mul"),
        helper.make_node("Add", ["a", "b"], ["sum"], name="add"),
    ]
    return _save(path, nodes, [], {"b": [2, 3], "a": [2, 3]}, {"sum": [2, 3], "product": [2, 3]})


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str]],
    domains: tuple[str, ...] = (),
) -> Path:
    def infos(tensors: dict[str, Sequence[int | str]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in tensors.items()]

    graph = helper.make_graph(nodes, path.stem, infos(inputs), infos(outputs), constants)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), str(path))
    return path


def save_wide(path: Path, middle: str = "Relu(a)") -> Path:
    """Convolutions of 32 channels and something between the first two."""
    rng = np.random.default_rng(0)
    text = (
        '<ir_version: 9, opset_import: ["" : 20]> g (float[1,3,32,32] x) => (float[1,32,?,?] y) '
        f"{{ a = Conv <pads=[1,1,1,1]> (x, v)  b = {middle}  c = Conv <pads=[1,1,1,1]> (b, w)  "
        "d = Relu(c)  y = Conv <pads=[1,1,1,1]> (d, u) }"
    )
    model = onnx.parser.parse_model(text)
    for name, inputs in (("v", 3), ("w", 32), ("u", 32)):
        value = rng.standard_normal((32, inputs, 3, 3)).astype(np.float32) * 0.1
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.save(model, path)
    return path
