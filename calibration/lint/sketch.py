"""Small quantized models for the cases of lint rules, built tensor by tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Sketch:
    """A model of one float input `x`; every method returns the name of the tensor that it adds."""

    def __init__(self, rng: np.random.Generator, *shape: int | str, opset: int = 20) -> None:
        self.rng, self.shape, self.opset = rng, shape or (1, 16, 8, 8), opset
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def constant(self, value: NDArray[Any] | float) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = (
            np.asarray(value, np.float32) if isinstance(value, float) else np.asarray(value)
        )
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        names = [name, *(f"{name}_{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, inputs, names, name, domain=domain, **attributes))
        return name

    def pair(
        self,
        x: str,
        scale: float | NDArray[Any] = 0.03,
        zero: int = 0,
        kind: Any = np.int8,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Q and DQ of an activation."""
        scales = np.asarray(scale, np.float32)
        inputs = [self.constant(scales), self.constant(np.full(scales.shape, zero, kind))]
        codes = self.op("QuantizeLinear", x, *inputs, domain=domain, **attributes)
        return self.op("DequantizeLinear", codes, *inputs, domain=domain, **attributes)

    def weight(self, *shape: int, axis: int | None = 0, kind: Any = np.int8, zero: int = 0) -> str:
        """Codes of a weight behind DQ, per channel along `axis`."""
        info = np.iinfo(kind)
        codes = np.clip(self.rng.integers(-127, 128, shape) + zero, info.min, info.max).astype(kind)
        channels = () if axis is None else (shape[axis],)
        scale = (self.rng.uniform(0.5, 1.5, channels) * 0.0003).astype(np.float32)
        inputs = [self.constant(codes), self.constant(scale), self.constant(np.full(channels, zero, kind))]
        more: dict[str, Any] = {"axis": axis}
        return self.op("DequantizeLinear", *inputs, **(more if axis is not None else {}))

    def bias(self, channels: int) -> str:
        return self.constant((self.rng.standard_normal(channels) * 0.3).astype(np.float32))

    def conv(
        self, x: str, inputs: int = 16, outputs: int = 16, kernel: int = 3, group: int = 1, weight: str = ""
    ) -> str:
        """A convolution with a weight behind DQ, unless another is given, and a float bias."""
        weight = weight or self.weight(outputs, inputs // group, kernel, kernel)
        return self.op("Conv", x, weight, self.bias(outputs), pads=[kernel // 2] * 4, group=group)

    def float_conv(self, x: str, inputs: int = 16, outputs: int = 16, kernel: int = 3, group: int = 1) -> str:
        """A convolution in float."""
        w = self.rng.standard_normal((outputs, inputs // group, kernel, kernel)) * 0.03
        return self.conv(x, inputs, outputs, kernel, group, self.constant(w.astype(np.float32)))

    def model(self, *outputs: str, domains: tuple[str, ...] = ()) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "sketch",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(name, 1) for name in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        plain = onnx.ModelProto.FromString(model.SerializeToString())
        for node in plain.graph.node:
            node.domain = ""  # of com.microsoft's Q and DQ no shapes are inferred
        shaped = onnx.shape_inference.infer_shapes(plain).graph.output
        del model.graph.output[:]
        model.graph.output.extend(shaped)
        return model
