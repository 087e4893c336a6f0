"""Networks to calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.calibration import load_rules
from edgedeploy.calibration.collect.dataset import CalibrationData

RULES = load_rules("tensorrt").with_options(first=True, last=True)


def network(*, dynamic: bool = False, weight: float = 0.1, concat: bool = True) -> onnx.ModelProto:
    """Two residual blocks, a pooled branch, a transposed convolution and a classifier."""
    rng = np.random.default_rng(3)
    weights: dict[str, np.ndarray] = {}
    nodes = []

    def op(kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def conv(name: str, x: str, inputs: int, outputs: int, stride: int = 1) -> str:
        weights[f"{name}_w"] = rng.standard_normal((outputs, inputs, 3, 3)) * weight
        weights[f"{name}_b"] = rng.standard_normal(outputs) * 0.1
        return op("Conv", name, x, f"{name}_w", f"{name}_b", pads=[1] * 4, strides=[stride] * 2)

    x = op("Relu", "stem_r", conv("stem", "x", 3, 16, stride=2))
    for block in ("one", "two"):
        inner = op("Relu", f"{block}_r", conv(f"{block}_a", x, 16, 16))
        x = op("Relu", f"{block}_y", op("Add", f"{block}_sum", conv(f"{block}_b", inner, 16, 16), x))
    pooled = op("MaxPool", "pool", x, kernel_shape=[2, 2], strides=[2, 2])
    weights["up_w"] = rng.standard_normal((16, 16, 2, 2)) * weight
    up = op("ConvTranspose", "up", pooled, "up_w", strides=[2, 2])
    joined = (op("Relu", "up_r", up), x)
    both = op("Concat", "both", *joined, axis=1) if concat else op("Add", "both", *joined)
    op("AveragePool", "mean", conv("head", both, 32 if concat else 16, 16), kernel_shape=[2, 2])
    size = ["H", "W"] if dynamic else [16, 16]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, 16, None, None])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


SIZE, CHANNELS, LAYERS = (256, 512), 16, 12


CHAIN_NAMES = [f"r{index}" for index in range(LAYERS)]


def chain() -> onnx.ModelProto:
    """Convolutions of one size, each with its ReLU."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for index in range(LAYERS):
        before, inputs = (f"r{index - 1}", CHANNELS) if index else ("x", 3)
        w = rng.standard_normal((CHANNELS, inputs, 3, 3)).astype(np.float32) * 0.1
        weights.append(numpy_helper.from_array(w, f"w{index}"))
        nodes.append(helper.make_node("Conv", [before, f"w{index}"], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
    shapes = ("x", [1, 3, *SIZE]), (CHAIN_NAMES[-1], [1, CHANNELS, *SIZE])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


TENSORS = ["x", "stem_r", "one_sum", "both"]


def unit_image(image: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": image.transpose(2, 0, 1)[None].astype(np.float32) / 255}


def data(photos: Path, keep: Path, limit: int = 64, preprocessing: str = "unit") -> CalibrationData:
    return CalibrationData(photos, unit_image, limit, ("x",), keep=keep, preprocessing=preprocessing)
