"""Edit an ONNX graph by a plan: Q/DQ pairs on activations, INT8 codes behind DequantizeLinear on weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edgedeploy.calibration.place.plan import Plan
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.calibration.place.weights import quantize_weight
from edgedeploy.graphs.view import GraphView

Scale = tuple[np.float32, "np.int8 | np.uint8 | np.uint16"]


class QdqWriter:
    """Edits one graph in place by a plan."""

    def __init__(
        self, model: onnx.ModelProto, view: GraphView, plan: Plan, scales: dict[str, Scale], rules: RuleSet
    ) -> None:
        self.graph, self.view, self.plan, self.scales, self.rules = model.graph, view, plan, scales, rules
        self.taken = {name for node in view.nodes for name in (node.name, *node.input, *node.output)}
        self.taken |= {entry.name for entry in (*model.graph.input, *model.graph.initializer)}
        self.before: defaultdict[int, list[NodeProto]] = defaultdict(list)
        self.dequantized: dict[tuple[str, int | None], str] = {}

    def write(self) -> None:
        """Edit the graph; call it once, for the view is of the graph before."""
        start: list[NodeProto] = []
        after: defaultdict[int, list[NodeProto]] = defaultdict(list)
        for name in self.plan.tensors:
            pair = self._pair(name)
            producer = self.view.producer.get(name)
            (start if producer is None else after[producer]).extend(pair)
        # Biases first: they take the name of the float weight to find its scale.
        for (index, position), activation in self.plan.biases.items():
            self._bias(index, position, activation)
        for (index, position), axis in self.plan.weights.items():
            self._weight(index, position, axis)
        nodes = list(start)
        for index, node in enumerate(self.view.nodes):
            nodes += [*self.before[index], node, *after[index]]
        ordered = [_copy(node) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(ordered)
        self._drop_unused()

    def _pair(self, name: str) -> Iterator[NodeProto]:
        """Q and DQ of an activation, with the edges of its readers moved to the dequantized tensor."""
        scale, zero = self.scales[name]
        inputs = [
            self._constant(f"{name}_scale", np.asarray(scale)),
            self._constant(f"{name}_zero_point", np.asarray(zero)),
        ]
        codes, source, dequantized = self._unique(f"{name}_quantized"), name, name
        if name in self.plan.whole:
            # For every reader, and for the graph's output: it is the float tensor that takes another name.
            source = self._unique(f"{name}_float")
            outputs = self.view.nodes[self.view.producer[name]].output
            outputs[list(outputs).index(name)] = source
        else:
            dequantized = self._unique(f"{name}_dequantized")
            for index, position in self.plan.reads[name]:
                self.view.nodes[index].input[position] = dequantized
        yield helper.make_node(
            "QuantizeLinear", [source, *inputs], [codes], self._unique(f"{name}_QuantizeLinear")
        )
        yield helper.make_node(
            "DequantizeLinear", [codes, *inputs], [dequantized], self._unique(f"{name}_DequantizeLinear")
        )

    def _weight(self, index: int, position: int, axis: int | None) -> None:
        """Replace a constant weight by INT8 codes behind DequantizeLinear; nodes that share it share that."""
        node = self.view.nodes[index]
        name = node.input[position]
        if (name, axis) not in self.dequantized:
            codes, scale = quantize_weight(self.view.value(name), axis, self.rules.product(node))
            inputs = [
                self._constant(f"{name}_quantized", codes),
                self._constant(f"{name}_scale", scale),
                self._constant(f"{name}_zero_point", np.zeros_like(scale, dtype=np.int8)),
            ]
            output = self._unique(f"{name}_dequantized")
            label = self._unique(f"{name}_DequantizeLinear")
            dequantize = helper.make_node("DequantizeLinear", inputs, [output], label)
            if axis is not None:
                dequantize.attribute.append(helper.make_attribute("axis", axis))
            self.before[index].append(dequantize)
            self.dequantized[(name, axis)] = output
        node.input[position] = self.dequantized[(name, axis)]

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
        inputs = [
            self._constant(f"{name}_quantized", np.rint(b / step).astype(np.int32)),
            self._constant(f"{name}_scale", np.ascontiguousarray(step, dtype=np.float32)),
        ]
        output = self._unique(f"{name}_dequantized")
        label = self._unique(f"{name}_DequantizeLinear")
        self.before[index].append(helper.make_node("DequantizeLinear", inputs, [output], label, axis=0))
        self.dequantized[(name, index)] = output
        node.input[position] = output

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        name = self._unique(name)
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self.taken:
            candidate, number = f"{name}_{number}", number + 1
        self.taken.add(candidate)
        return candidate

    def _drop_unused(self) -> None:
        """Remove the float weights that nothing reads any more, wherever they were kept."""
        used = {name for node in self.graph.node for name in node.input} | self.view.captured
        used |= {value.name for value in self.graph.output}
        replaced = {name for name, _ in self.dequantized} - used
        for holder in (self.graph.initializer, self.graph.input, self.graph.value_info):
            for position in reversed(range(len(holder))):
                if holder[position].name in replaced:
                    del holder[position]
        for position in reversed(range(len(self.graph.node))):
            node = self.graph.node[position]
            if node.op_type == "Constant" and node.output[0] in replaced:
                del self.graph.node[position]


def _copy(node: NodeProto) -> NodeProto:
    """Protobuf containers free what is removed from them: keep a copy instead."""
    result = NodeProto()
    result.CopyFrom(node)
    return result
