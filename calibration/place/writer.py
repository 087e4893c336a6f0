"""Edit an ONNX graph by a plan: Q/DQ pairs on activations, INT8 codes behind DequantizeLinear on weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from edgedeploy.calibration.place.plan import Plan
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.calibration.place.weights import quantize_weight
from edgedeploy.graphs.edit import GraphEditor
from edgedeploy.graphs.view import GraphView

Scale = tuple[np.float32, "np.int8 | np.uint8 | np.uint16"]


class QdqWriter(GraphEditor):
    """Edits the model of a view in place by a plan."""

    def __init__(self, view: GraphView, plan: Plan, scales: dict[str, Scale], rules: RuleSet) -> None:
        super().__init__(view)
        self.plan, self.scales, self.rules = plan, scales, rules
        self._dequantized: dict[tuple[str, int | None], str] = {}

    def write(self) -> None:
        """Edit the graph, once: the view shows the graph before."""
        for name in self.plan.tensors:
            self._pair(name)
        # Biases first: a bias's scale is computed from the float weight.
        for (index, position), activation in self.plan.biases.items():
            self._bias(index, position, activation)
        for (index, position), axis in self.plan.weights.items():
            self._weight(index, position, axis)
        self.commit()

    def _pair(self, name: str) -> None:
        """Insert Q and DQ after an activation and rewire the planned edges to the dequantized tensor."""
        scale, zero = self.scales[name]
        inputs = [self.constant(f"{name}_scale", scale), self.constant(f"{name}_zero_point", zero)]
        codes, source, dequantized = self.unique(f"{name}_quantized"), name, name
        if name in self.plan.fully_quantized:
            # All consumers and the graph output keep the name: the float tensor is renamed.
            source = self.rename_output(name, f"{name}_float")
        else:
            dequantized = self.unique(f"{name}_dequantized")
            for index, position in self.plan.reads[name]:
                self.read(index, position, dequantized)
        after = self.view.maker(name) + 1
        for op, before, result in (
            ("QuantizeLinear", source, codes),
            ("DequantizeLinear", codes, dequantized),
        ):
            self.append(helper.make_node(op, [before, *inputs], [result], self.unique(f"{name}_{op}")), after)

    def _weight(self, index: int, position: int, axis: int | None) -> None:
        """Replace a constant weight by INT8 codes behind DequantizeLinear; nodes share both."""
        node = self.view.nodes[index]
        name = node.input[position]
        if (name, axis) not in self._dequantized:
            codes, scale = quantize_weight(self.view.value(name), axis, self.rules.product(node))
            zero = np.zeros_like(scale, dtype=np.int8)
            self._dequantized[(name, axis)] = self._dequantize(index, name, codes, axis, scale, zero)
        node.input[position] = self._dequantized[(name, axis)]

    def _bias(self, index: int, position: int, activation: str) -> None:
        """Replace a bias by int32 codes of scale activation x weight; one that would overflow stays float."""
        node = self.view.nodes[index]
        name, weight = node.input[position], node.input[1]
        b = self.view.value(name).astype(np.float64)
        axis = self.plan.weights[(index, 1)]
        _, scale = quantize_weight(self.view.value(weight), axis, self.rules.product(node))
        step = np.atleast_1d(scale * self.scales[activation][0])
        if b.ndim != 1 or not (b.size == step.size or 1 in (b.size, step.size)):
            return
        b, step = np.broadcast_arrays(b, step)  # one value for all outputs, as Gemm's C may be
        if (np.abs(b / step) >= 2**31).any():
            return
        codes = np.rint(b / step).astype(np.int32)
        node.input[position] = self._dequantize(index, name, codes, 0, step.astype(np.float32))

    def _dequantize(
        self, index: int, name: str, codes: NDArray[Any], axis: int | None, *parameters: NDArray[Any]
    ) -> str:
        """DequantizeLinear of codes before the node at `index`; returns the name of its output."""
        inputs = [
            self.constant(f"{name}_{suffix}", value)
            for suffix, value in zip(("quantized", "scale", "zero_point"), (codes, *parameters), strict=False)
        ]
        output, label = self.unique(f"{name}_dequantized"), self.unique(f"{name}_DequantizeLinear")
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        self.append(helper.make_node("DequantizeLinear", inputs, [output], label, **attributes), index)
        return output
