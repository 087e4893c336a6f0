"""Build a mixed-precision model: each Q/DQ edge is Where(flag, dequantized, float), or fixed at build time.

The flag is a boolean graph input per layer, the layer's switch. It also selects the bias where a correction
changed the bias. A tensor that all consumers read quantized has the flag of its producer's layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgedeploy.calibration.place.planner import make_plan
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.calibration.ptq import QuantizeResult
from edgedeploy.graphs.edit import GraphEditor, add_outputs, copy_model
from edgedeploy.graphs.view import GraphView

SWITCH = "edgedeploy_switch:"


class Switches:
    """Builder of one model from the float and the quantized one.

    Args:
        plain, quantized: the float model and the model with Q/DQ, as for `Emulator`.
        layers: names of the nodes that have a switch.
        fixed: names of the layers in INT8, for a model without switches; None for a model with switches.
    """

    def __init__(
        self,
        plain: onnx.ModelProto,
        quantized: onnx.ModelProto,
        layers: Collection[str],
        fixed: Collection[str] | None = None,
    ) -> None:
        self.fixed = None if fixed is None else set(fixed)
        self.layers = set(layers)
        self.plain, self.view = GraphView(plain), GraphView(copy_model(quantized))
        self.editor = GraphEditor(self.view)
        self.original = {node.name: node for node in plain.graph.node}
        self.switched: dict[tuple[str, str], str] = {}
        # State before the edits, which rename outputs and add constants.
        self.producer = {name: self.view.nodes[index] for name, index in self.view.producer.items()}
        self.corrected = {entry.name for entry in quantized.graph.initializer}

    def model(self, probes: Collection[str] = ()) -> onnx.ModelProto:
        """The model with `probes` as further outputs; a fixed mix drops nodes that lead to no output."""
        graph = self.view.model.graph
        for index, node in enumerate(self.view.nodes):
            self._edges(index, node)
            if node.op_type == "DequantizeLinear":
                self._switch_output(index, node)
        self.editor.commit(None if self.fixed is not None else frozenset())
        for name in sorted(self.layers & set(self.original)) if self.fixed is None else ():
            graph.input.append(helper.make_tensor_value_info(f"{SWITCH}{name}", TensorProto.BOOL, []))
        # Inferred types name tensors that have another producer now.
        del graph.value_info[:]
        add_outputs(self.view.model, probes)
        return self.view.model

    def _choose(self, index: int, layer: str, quantized: str, plain: str, output: str) -> str:
        """The tensor for a switched edge of the node at `index`, before which Where is inserted."""
        if self.fixed is not None:
            return quantized if layer in self.fixed else plain
        return self.editor.insert(index, "Where", [f"{SWITCH}{layer}", quantized, plain], output)

    def _edges(self, index: int, node: onnx.NodeProto) -> None:
        """Switch the edges of a node that come from DequantizeLinear; only nodes of the float model."""
        original = self.original.get(node.name)
        if original is None:
            return
        for position, name in enumerate(node.input):
            dequantize = self.producer.get(name)
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                if node.name in self.layers and name in self.corrected:
                    self._corrected(index, position, original)
                continue
            # A tensor that all consumers read quantized keeps its name; `_switch_output` handles it.
            switched = name == original.input[position]
            plain = name if switched else self._float(dequantize, original.input[position])
            if node.name not in self.layers:
                self.editor.read(index, position, plain)
                continue
            key = (name, node.name)
            if key not in self.switched:
                output = f"{name}:switched:{node.name}"
                self.switched[key] = self._choose(index, node.name, dequantize.output[0], plain, output)
            self.editor.read(index, position, self.switched[key])

    def _corrected(self, index: int, position: int, original: onnx.NodeProto) -> None:
        """Switch a constant, such as a bias, if a correction changed its value."""
        node = self.view.nodes[index]
        name = node.input[position]
        value = self.view.value(name)
        before = np.zeros_like(value)
        if position < len(original.input) and original.input[position]:
            source = original.input[position]
            if source not in self.plain.constants:
                return
            before = self.plain.value(source)
        if not np.array_equal(value, before):
            plain = self.editor.constant(f"{name}:float:{node.name}", before)
            output = f"{name}:switched:{node.name}"
            self.editor.read(index, position, self._choose(index, node.name, name, plain, output))

    def _switch_output(self, index: int, dequantize: onnx.NodeProto) -> None:
        """Switch a tensor that all consumers read quantized, by the flag of its producer's layer."""
        name = dequantize.output[0]
        quantize = self.producer.get(dequantize.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return
        owner = self._owner(quantize.input[0])
        if name not in self.plain.producer or owner is None:
            return
        if self.fixed is not None and owner in self.fixed:
            return
        source = quantize.input[0]
        dequantized = self.editor.rename_output(name, f"{name}:dequantized")
        # In a fixed mix, INT8 layers read the dequantized tensor and float layers this one.
        node = helper.make_node("Identity", [source], [name], f"{name}:float")
        if self.fixed is None:
            where = [f"{SWITCH}{owner}", dequantized, source]
            node = helper.make_node("Where", where, [name], f"{name}:switched")
        self.editor.append(node, index + 1)

    def _owner(self, name: str) -> str | None:
        """The layer that computes a tensor, through activations; None without one."""
        node = self.producer.get(name)
        while node is not None and node.name not in self.layers:
            node = self.producer.get(node.input[0]) if node.input else None
        return None if node is None else node.name

    def _float(self, dequantize: onnx.NodeProto, name: str) -> str:
        """The float tensor behind a dequantized one; constants are copied from the float model."""
        quantize = self.producer.get(dequantize.input[0])
        if quantize is not None and quantize.op_type == "QuantizeLinear":
            return str(quantize.input[0])
        if name in self.view.constants or name in self.producer:
            return name
        return self.editor.constant(name, self.plain.constants[name])


def mix(result: QuantizeResult, rules: RuleSet, kept: Mapping[str, str]) -> onnx.ModelProto:
    """The quantized model with the layers `kept` (node -> reason) in float.

    A node that is in INT8 only because of a kept layer, such as an Add after it, returns to float too.
    """
    layers = {note.node for note in result.report.placement.quantized}
    plan = make_plan(GraphView(result.float_model), rules, keep_float=kept)
    on = layers & {note.node for note in plan.quantized}
    mixed = Switches(result.float_model, result.model, layers, on).model()
    onnx.checker.check_model(mixed)
    return mixed
