"""The quantized layers of a placed model, each with its float layer.

Placement keeps the order of nodes, adds QuantizeLinear and DequantizeLinear and drops Constant: the other
nodes match one to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from edgedeploy.calibration.place.weights import along_axis
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.operators import QDQ
from edgedeploy.graphs.edit import GraphEditor, copy_model
from edgedeploy.graphs.view import GraphView, attribute

_ADDED = QDQ | {"Constant"}


@dataclass(frozen=True)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul whose weight became integer codes.

    Attributes:
        node, original: the node in the quantized and in the float model.
        w: weight of the float model.
        dequantize: DequantizeLinear of the weight; its inputs are codes, scales, zero-points.
        bias: bias of the float model; None without one.
        axis: axis of output channels in the weight; None for one scale.
    """

    node: NodeProto
    original: NodeProto
    w: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    dequantize: NodeProto
    axis: int | None

    @property
    def name(self) -> str:
        return self.node.name or self.node.output[0]

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        if self.node.op_type == "ConvTranspose":
            return int(self.w.shape[1]) * int(attribute(self.node, "group", 1))
        transposed = self.node.op_type == "Conv" or attribute(self.node, "transB", 0)
        return int(self.w.shape[0 if transposed else -1])


class Placed:
    """An editable copy of a quantized model, with its layers."""

    def __init__(self, quantized: onnx.ModelProto, model: onnx.ModelProto) -> None:
        self.model = copy_model(quantized)
        self.view, self.float_view = GraphView(self.model), GraphView(model)
        self.editor = GraphEditor(self.view)
        self.nodes, self.constants = self.view.nodes, self.view.constants
        ours = [node for node in self.nodes if node.op_type not in _ADDED]
        theirs = [node for node in self.float_view.nodes if node.op_type not in _ADDED]
        if [node.op_type for node in ours] != [node.op_type for node in theirs]:
            raise CalibrationError(
                "the quantized model was not made from this float model", "quantize it again"
            )
        self.layers: list[Layer] = []
        for node, original in zip(ours, theirs, strict=True):
            made = self.view.maker_node(node.input[1]) if len(node.input) > 1 else None
            if (
                made is None
                or made.op_type != "DequantizeLinear"
                or original.input[1] not in self.float_view.constants
            ):
                continue
            scale = self.value(made.input[1])
            axis = int(attribute(made, "axis", 1)) if scale.ndim else None
            w = self.float_view.value(original.input[1])
            named = original.input[2] if len(original.input) > 2 else ""
            bias = self.float_view.value(named) if named in self.float_view.constants else None
            if not named or bias is not None:  # a computed bias cannot be corrected
                self.layers.append(Layer(node, original, w, bias, made, axis))
        self.originals = {id(node): original for node, original in zip(ours, theirs, strict=True)}

    def value(self, name: str) -> NDArray[Any]:
        """A constant's value."""
        return self.view.value(name)

    def replace(self, name: str, value: NDArray[Any]) -> None:
        """Set the value of a constant, cast to the constant's type."""
        old = self.constants[name]
        old.CopyFrom(numpy_helper.from_array(value.astype(self.value(name).dtype), name))

    def weight(self, layer: Layer) -> NDArray[np.float64]:
        """The dequantized weight."""
        codes, scale = (self.value(name) for name in layer.dequantize.input[:2])
        return codes.astype(np.float64) * along_axis(scale, layer.axis, codes.ndim)

    def steps(self, layer: Layer) -> NDArray[np.float64]:
        """Scales of the weight, shaped to broadcast to the weight."""
        return along_axis(self.value(layer.dequantize.input[1]), layer.axis, layer.w.ndim)

    def private(self, layer: Layer) -> bool:
        """Whether no other layer shares the codes of this weight."""
        codes = layer.dequantize.input[0]
        return [other.dequantize.input[0] for other in self.layers].count(codes) == 1

    def shift_bias(self, layer: Layer, change: NDArray[np.float64]) -> bool:
        """Add `change` (outputs,) to a layer's bias; False if that takes another node."""
        node = layer.node
        if node.op_type == "MatMul":
            found = self._add_after(layer)
            if found is None:
                return False
            add, position = found
            own = self.value(add.input[position]).reshape(-1) + change
            name = f"{add.output[0]}_bias_corrected"
            add.input[position] = self.editor.constant(name, own.astype(np.float32))
            return True
        if node.op_type == "Gemm" and attribute(node, "beta", 1.0) != 1.0:
            return False
        if len(node.input) < 3 or not node.input[2]:
            name = f"{node.output[0]}_bias_correction"
            while len(node.input) < 3:
                node.input.append("")
            node.input[2] = self.editor.constant(name, change.astype(np.float32))
            return True
        made = self.view.maker_node(node.input[2])
        if made is not None and made.op_type == "DequantizeLinear":
            codes, scale = self.value(made.input[0]), self.value(made.input[1]).astype(np.float64)
            moved: NDArray[np.float64] = np.rint(codes + change / scale)
            if np.abs(moved).max() >= 2**31:
                return False
            made.input[0] = self.editor.constant(f"{made.input[0]}_corrected", moved.astype(np.int32))
            return True
        b = self.value(node.input[2]) if node.input[2] in self.constants else layer.bias
        if b is None or b.size not in (1, change.size) or b.ndim > 2:
            return False
        own = (b.reshape(-1) + change).astype(np.float32)
        node.input[2] = self.editor.constant(f"{node.input[2]}_{node.output[0]}_corrected", own)
        return True

    def moved(self, layer: Layer) -> NDArray[np.float64] | float:
        """Change of the bias in the Add after a MatMul against the float model."""
        found = self._add_after(layer)
        if found is None:
            return 0.0
        add, position = found
        before = self.float_view.value(self.originals[id(add)].input[position]).astype(np.float64)
        return self.value(add.input[position]).reshape(-1) - before.reshape(-1)

    def finished(self) -> onnx.ModelProto:
        """The edited model without unused constants."""
        self.editor.commit()
        onnx.checker.check_model(self.model)
        return self.model

    def _add_after(self, layer: Layer) -> tuple[NodeProto, int] | None:
        name = layer.node.output[0]
        readers = [self.nodes[index] for index in self.view.readers(name)]
        if layer.node.op_type != "MatMul" or len(readers) != 1 or readers[0].op_type != "Add":
            return None
        position = 1 - list(readers[0].input).index(name)
        other = readers[0].input[position]
        b = self.value(other) if other in self.constants else None
        if b is None or b.size not in (1, layer.outputs) or (b.size > 1 and b.shape[-1] != b.size):
            return None
        return readers[0], position
