"""One float model with a switch per quantised layer: any mix of INT8 and float without building it anew.

Every edge that Q/DQ was placed on reads Where(switch, dequantised, float). The arithmetic is that of the Q/DQ
graph computed exactly, in ONNX Runtime without its INT8 kernels: what a runtime makes of the graph beyond
that (its own rewrites, kernels that saturate) is not in it, and has to be measured in that runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.calibration.graph_view import GraphView
from edgedeploy.core.errors import CalibrationError

SWITCH = "edgedeploy_switch:"
Values = dict[str, NDArray[Any]]


class Emulator:
    """A quantised model whose layers can be switched between INT8 and float.

    Args:
        float_model: just what was quantised, its nodes named (`QuantizeResult.float_model`).
        quantised: the same with Q/DQ.
        layers: names of the nodes that get a switch; the edges of others are as their producers are.
        probes: tensors that `run` may be asked for besides the outputs.
    """

    def __init__(
        self,
        float_model: onnx.ModelProto,
        quantised: onnx.ModelProto,
        layers: Collection[str],
        probes: Collection[str] = (),
    ) -> None:
        self.layers = tuple(dict.fromkeys(layers))
        self.outputs = tuple(value.name for value in float_model.graph.output)
        self.inputs = tuple(GraphView(float_model).inputs)
        model = _Switched(float_model, quantised, self.layers).model(probes)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Beyond the basic level pairs of Q/DQ are fused into INT8 kernels, which round in other places.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise CalibrationError(
                f"ONNX Runtime cannot run the model with switches: {error}", "sensitivity needs it to run"
            ) from error
        self._switches = {
            value.name.removeprefix(SWITCH)
            for value in self._session.get_inputs()
            if value.name.startswith(SWITCH)
        }

    def run(
        self, feeds: Mapping[str, NDArray[Any]], on: Iterable[str] | None = None, names: Iterable[str] = ()
    ) -> Values:
        """Outputs, and the probes `names`, with the layers of `on` in INT8 (all of them by default)."""
        active = set(self.layers if on is None else on)
        wanted = [*self.outputs, *names]
        switches = {f"{SWITCH}{layer}": np.asarray(layer in active) for layer in self._switches}
        fed = {name: value for name, value in feeds.items() if name in self.inputs}
        values = self._session.run(wanted, {**fed, **switches})
        return dict(zip(wanted, values, strict=True))


class _Switched:
    """Builds the model with switches."""

    def __init__(self, plain: onnx.ModelProto, quantised: onnx.ModelProto, layers: Collection[str]) -> None:
        self.plain, self.result = plain, onnx.ModelProto()
        self.result.CopyFrom(quantised)
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
        self.corrected = {entry.name: entry for entry in quantised.graph.initializer}
        self.made: dict[tuple[str, str], str] = {}
        self.computed = {name for node in plain.graph.node for name in node.output}

    def model(self, probes: Collection[str]) -> onnx.ModelProto:
        graph = self.result.graph
        nodes: list[onnx.NodeProto] = []
        for node in list(graph.node):
            nodes += self._edges(node)
            nodes.append(node)
            if node.op_type == "DequantizeLinear":
                nodes += self._whole(node)
        for name in sorted(self.layers & set(self.original)):
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
        return self.result

    def _edges(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Where nodes before a node of the float model, for its edges that come out of DequantizeLinear."""
        original = self.original.get(node.name)
        if original is None:
            return []
        added: list[onnx.NodeProto] = []
        for position, name in enumerate(node.input):
            dequantise = self.producer.get(name)
            if dequantise is None or dequantise.op_type != "DequantizeLinear":
                if node.name in self.layers and name in self.corrected:
                    added += self._corrected(node, position, original)
                continue
            # A tensor that is quantised for all its readers keeps its name: `_whole` switches it already.
            whole = name == original.input[position]
            plain = name if whole else self._float(dequantise, original.input[position])
            if node.name not in self.layers:
                node.input[position] = plain
                continue
            key = (name, node.name)
            if key not in self.made:
                self.made[key] = f"{name}:switched:{node.name}"
                where = [f"{SWITCH}{node.name}", dequantise.output[0], plain]
                added.append(helper.make_node("Where", where, [self.made[key]], self.made[key]))
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
        node.input[position] = output
        return [helper.make_node("Where", [f"{SWITCH}{node.name}", name, plain], [output], output)]

    def _whole(self, dequantise: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The switch of a tensor that all readers take quantised: on where its producer's layer is."""
        name = dequantise.output[0]
        quantise = self.producer.get(dequantise.input[0])
        if quantise is None or quantise.op_type != "QuantizeLinear":
            return []
        owner = self._owner(quantise.input[0])
        if name not in self.computed or owner is None:
            return []
        dequantise.output[0] = f"{name}:dequantised"
        where = [f"{SWITCH}{owner}", dequantise.output[0], quantise.input[0]]
        return [helper.make_node("Where", where, [name], f"{name}:switched")]

    def _owner(self, name: str) -> str | None:
        """The layer whose output this is, through the activations between."""
        node = self.producer.get(name)
        while node is not None and node.name not in self.layers:
            node = self.producer.get(node.input[0]) if node.input else None
        return None if node is None else node.name

    def _float(self, dequantise: onnx.NodeProto, name: str) -> str:
        """The float tensor that a dequantised one stands for; constants come back from the float model."""
        quantise = self.producer.get(dequantise.input[0])
        if quantise is not None and quantise.op_type == "QuantizeLinear":
            return str(quantise.input[0])
        held = {entry.name for entry in self.result.graph.initializer} | set(self.producer)
        if name not in held:
            restored = onnx.TensorProto()
            restored.CopyFrom(self.constants[name])
            restored.name = name
            self.result.graph.initializer.append(restored)
        return name
