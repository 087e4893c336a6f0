"""Every edge with Q/DQ as a choice between INT8 and float: at run time by switches, or once and for all.

Switched edges read Where(switch of the layer, dequantized, float). Biases that a correction changed for INT8
are switched with the layer. Tensors that are quantized for all readers follow the layer that makes them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.calibration.place.plan import make_plan
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.calibration.ptq import QuantizeResult
from edgedeploy.graphs.view import GraphView, outer_names

SWITCH = "edgedeploy_switch:"


class Switches:
    """One use: builds a model out of the float one and the quantized one.

    Args:
        plain, quantized: as of `Emulator`.
        layers: nodes that have a switch.
        fixed: those of them that are in INT8, for a plain model of that mix; None for one with switches.
    """

    def __init__(
        self,
        plain: onnx.ModelProto,
        quantized: onnx.ModelProto,
        layers: Collection[str],
        fixed: Collection[str] | None = None,
    ) -> None:
        self.fixed = None if fixed is None else set(fixed)
        self.plain, self.result = plain, onnx.ModelProto()
        self.result.CopyFrom(quantized)
        self.layers = set(layers)
        self.original = {node.name: node for node in plain.graph.node}
        self.producer = {name: node for node in self.result.graph.node for name in node.output if name}
        self.constants = {entry.name: entry for entry in plain.graph.initializer}
        self.constants |= {
            node.output[0]: attribute.t
            for node in plain.graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        self.corrected = {entry.name: entry for entry in quantized.graph.initializer}
        self.made: dict[tuple[str, str], str] = {}
        self.computed = {name for node in plain.graph.node for name in node.output}

    def model(self, probes: Collection[str] = ()) -> onnx.ModelProto:
        """The model; `probes` become outputs. Without switches what nothing reads any more is dropped."""
        graph = self.result.graph
        nodes: list[onnx.NodeProto] = []
        for node in list(graph.node):
            nodes += self._edges(node)
            nodes.append(node)
            if node.op_type == "DequantizeLinear":
                nodes += self._whole(node)
        for name in sorted(self.layers & set(self.original)) if self.fixed is None else ():
            graph.input.append(helper.make_tensor_value_info(f"{SWITCH}{name}", TensorProto.BOOL, []))
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        known = {value.name for value in graph.output}
        graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in dict.fromkeys(probes)
            if name not in known
        )
        # Inferred shapes name tensors that are now made elsewhere.
        del graph.value_info[:]
        if self.fixed is not None:
            drop_unused(self.result)
        return self.result

    def _choose(
        self, layer: str, quantized: str, plain: str, output: str
    ) -> tuple[str, list[onnx.NodeProto]]:
        """The tensor that a switched edge reads, and the node that chooses it at run time."""
        if self.fixed is not None:
            return (quantized if layer in self.fixed else plain), []
        return output, [helper.make_node("Where", [f"{SWITCH}{layer}", quantized, plain], [output], output)]

    def _edges(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Where nodes before a node of the float model, for its edges that come out of DequantizeLinear."""
        original = self.original.get(node.name)
        if original is None:
            return []
        added: list[onnx.NodeProto] = []
        for position, name in enumerate(node.input):
            dequantize = self.producer.get(name)
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                if node.name in self.layers and name in self.corrected:
                    added += self._corrected(node, position, original)
                continue
            # A tensor that is quantized for all its readers keeps its name: `_whole` switches it already.
            whole = name == original.input[position]
            plain = name if whole else self._float(dequantize, original.input[position])
            if node.name not in self.layers:
                node.input[position] = plain
                continue
            key = (name, node.name)
            if key not in self.made:
                output = f"{name}:switched:{node.name}"
                self.made[key], more = self._choose(node.name, dequantize.output[0], plain, output)
                added += more
            node.input[position] = self.made[key]
        return added

    def _corrected(
        self, node: onnx.NodeProto, position: int, original: onnx.NodeProto
    ) -> list[onnx.NodeProto]:
        """The switch of a constant that a correction changed, as of a bias; nothing where it is as it was."""
        name = node.input[position]
        value = numpy_helper.to_array(self.corrected[name])
        before = np.zeros_like(value)
        if position < len(original.input) and original.input[position]:
            source = original.input[position]
            if source not in self.constants:
                return []
            before = numpy_helper.to_array(self.constants[source])
        if np.array_equal(value, before):
            return []
        plain, output = f"{name}:float:{node.name}", f"{name}:switched:{node.name}"
        self.result.graph.initializer.append(numpy_helper.from_array(before, plain))
        node.input[position], added = self._choose(node.name, name, plain, output)
        return added

    def _whole(self, dequantize: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The switch of a tensor that all readers take quantized: on where its producer's layer is."""
        name = dequantize.output[0]
        quantize = self.producer.get(dequantize.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return []
        owner = self._owner(quantize.input[0])
        if name not in self.computed or owner is None:
            return []
        if self.fixed is not None and owner in self.fixed:
            return []
        dequantize.output[0] = f"{name}:dequantized"
        if self.fixed is not None:  # whoever is in INT8 reads the dequantized form, all others this
            return [helper.make_node("Identity", [quantize.input[0]], [name], f"{name}:float")]
        where = [f"{SWITCH}{owner}", dequantize.output[0], quantize.input[0]]
        return [helper.make_node("Where", where, [name], f"{name}:switched")]

    def _owner(self, name: str) -> str | None:
        """The layer whose output this is, through the activations between."""
        node = self.producer.get(name)
        while node is not None and node.name not in self.layers:
            node = self.producer.get(node.input[0]) if node.input else None
        return None if node is None else node.name

    def _float(self, dequantize: onnx.NodeProto, name: str) -> str:
        """The float tensor that a dequantized one stands for; constants come back from the float model."""
        quantize = self.producer.get(dequantize.input[0])
        if quantize is not None and quantize.op_type == "QuantizeLinear":
            return str(quantize.input[0])
        held = {entry.name for entry in self.result.graph.initializer} | set(self.producer)
        if name not in held:
            restored = onnx.TensorProto()
            restored.CopyFrom(self.constants[name])
            restored.name = name
            self.result.graph.initializer.append(restored)
        return name


def mix(result: QuantizeResult, rules: RuleSet, kept: Mapping[str, str]) -> onnx.ModelProto:
    """The quantized model with the layers `kept` (node -> why) in float; the others are as they were.

    What is in INT8 only because of a layer that no longer is, as the skip input of a sum, goes with it.
    """
    layers = {note.node for note in result.report.placement.quantized}
    plan = make_plan(GraphView(result.float_model), rules, keep_float=kept)
    on = layers & {note.node for note in plan.quantized}
    mixed = Switches(result.float_model, result.model, layers, on).model()
    onnx.checker.check_model(mixed)
    return mixed


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and initializers that lead to no output, in place."""
    graph = model.graph
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            wanted |= {name for name in node.input if name} | outer_names(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name not in wanted:
            del graph.initializer[position]
