"""Edits of a graph that the fixes share: collected while a scene is looked at, done at once at the end."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edgedeploy.calibration.lint.scene import DQ, Pair, Q, Scene
from edgedeploy.calibration.place.weights import quantize_weight
from edgedeploy.core.pair_sums import LEVELS, Product


class Editor:
    """Changes the model of a scene in place; the scene shows what was there before until `commit`."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.graph = scene, scene.model.graph
        self.taken = {name for node in scene.nodes for name in (node.name, *node.input, *node.output)}
        self.taken |= {value.name for value in (*self.graph.input, *self.graph.initializer)}
        self._before: defaultdict[int, list[NodeProto]] = defaultdict(list)
        self._gone: set[int] = set()
        self._shared: dict[tuple[Any, ...], tuple[str, str]] = {}

    def unique(self, name: str) -> str:
        """`name`, or with a number where it is taken."""
        candidate, number = name, 1
        while candidate in self.taken:
            candidate, number = f"{name}_{number}", number + 1
        self.taken.add(candidate)
        return candidate

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A new initializer's name."""
        name = self.unique(name)
        self.graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def insert(self, index: int, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node before the one at `index`; returns the name of its output, made unique."""
        output = self.unique(output)
        self._before[index].append(
            helper.make_node(op, inputs, [output], self.unique(f"{output}_{op}"), **attributes)
        )
        return output

    def append(self, node: NodeProto, index: int) -> None:
        """A ready node before the one at `index`."""
        self._before[index].append(node)

    def read(self, index: int, position: int, name: str) -> None:
        """Let one input of a node read another tensor."""
        self.scene.nodes[index].input[position] = name

    def redirect(self, old: str, new: str, keep: frozenset[int] = frozenset()) -> None:
        """Let every reader of `old` but those in `keep`, and the graph's output, have `new`."""
        for index, position in self.scene.consumers[old]:
            if index not in keep:
                self.read(index, position, new)
        if old in self.scene.outputs:
            self._as_output(old, new)

    def _as_output(self, old: str, new: str) -> None:
        """Give what `new` holds the name of a graph output."""
        maker = self.scene.maker(old)
        outputs = self.scene.nodes[maker].output
        outputs[list(outputs).index(old)] = self.unique(f"{old}_unused")
        identity = helper.make_node("Identity", [new], [old], self.unique(f"{old}_Identity"))
        self._before[len(self.scene.nodes)].append(identity)

    def drop_pair(self, pair: Pair) -> None:
        """Let the readers of a pair have the float tensor, behind a ReLU where the pair was one besides."""
        parameters = self.scene.parameters(pair.quantize)
        source = pair.source
        if parameters is not None and parameters.clips_at_zero and not never_negative(self.scene, source):
            source = self.insert(pair.dequantize, "Relu", [source], f"{pair.source}_relu")
        self.redirect(pair.result, source)

    def set_parameters(self, index: int, scale: NDArray[Any], zero: NDArray[Any]) -> None:
        """Give a Q or DQ node another scale and zero-point, of one value each."""
        node = self.scene.nodes[index]
        key = (scale.tobytes(), zero.tobytes(), zero.dtype.name, scale.dtype.name)
        if key not in self._shared:
            hint = node.input[1]
            names = self.constant(f"{hint}_fixed", scale), self.constant(f"{hint}_fixed_zero_point", zero)
            self._shared[key] = names
        del node.input[1:]
        node.input.extend(self._shared[key])
        self.forget(index, "output_dtype")

    def requantize(self, quantize: int, scale: NDArray[Any], zero: NDArray[Any]) -> bool:
        """Give a Q and each DQ of its codes another scale and zero-point, if nothing else reads those."""
        readers = self.scene.readers(self.scene.nodes[quantize].output[0])
        if any(self.scene.op(reader) != DQ for reader in readers):
            return False
        for node in (quantize, *readers):
            self.set_parameters(node, scale, zero)
        return True

    def make_symmetric(self, quantize: int) -> None:
        """int8 with zero-point 0 over the same range, behind a ReLU where the pair was one besides."""
        parameters = self.scene.parameters(quantize)
        if parameters is None:
            return
        scale = np.asarray(max(-parameters.low, parameters.high) / LEVELS, parameters.scale.dtype)
        done = self.requantize(quantize, scale, np.asarray(0, np.int8))
        source = self.scene.nodes[quantize].input[0]
        if done and parameters.clips_at_zero and not never_negative(self.scene, source):
            self.read(quantize, 0, self.insert(quantize, "Relu", [source], f"{source}_relu"))

    def set_weight(self, dequantize: int, axis: int | None) -> None:
        """Quantize a weight anew, symmetric int8 along `axis`, from the values that it has now."""
        w = self.scene.weight_value(dequantize)
        if w is None:
            return
        readers = [self.scene.nodes[i] for i in self.scene.readers(self.scene.nodes[dequantize].output[0])]
        weighted = [node for node in readers if node.op_type in self.scene.rules.weighted]
        product = self.scene.rules.product(weighted[0]) if weighted else None
        name = self.quantized(w.astype(np.float32), axis, self.scene.nodes[dequantize].input[0], product)
        node = self.scene.nodes[dequantize]
        del node.input[:]
        node.input.extend([name, f"{name}_s", f"{name}_z"])
        self.forget(dequantize, "axis")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))

    def quantized(self, w: NDArray[Any], axis: int | None, hint: str, product: Product | None = None) -> str:
        """Codes of a weight as an initializer NAME, with NAME_s and NAME_z beside it."""
        codes, scale = quantize_weight(w, axis, product)
        name = self.constant(f"{hint}_int8", codes)
        for suffix, value in (("s", scale), ("z", np.zeros_like(scale, dtype=np.int8))):
            self.taken.add(f"{name}_{suffix}")
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{name}_{suffix}"))
        return name

    def forget(self, index: int, *names: str) -> None:
        """Remove attributes of a node."""
        attributes = self.scene.nodes[index].attribute
        for position in reversed(range(len(attributes))):
            if attributes[position].name in names:
                del attributes[position]

    def strip(self) -> None:
        """Take all pairs out, and give weights as the floats that they stand for."""
        for pair in self.scene.pairs():
            self.drop_pair(pair)
        for index in self.scene.dequantizers:
            self.to_constant(index)

    def to_constant(self, dequantize: int) -> None:
        """Replace a constant behind DQ by the floats that it stands for."""
        name = self.scene.nodes[dequantize].output[0]
        value = self.scene.weight_value(dequantize) if self.scene.weight(name) >= 0 else None
        parameters = self.scene.parameters(dequantize)
        if value is not None and parameters is not None:
            self.redirect(name, self.constant(f"{name}_float", value.astype(parameters.scale.dtype)))

    def commit(self) -> None:
        """Do what was asked: insert, and drop what nobody reads any more."""
        nodes: list[NodeProto] = []
        for index, node in enumerate(self.scene.nodes):
            nodes += [*self._before[index], node]
        nodes += self._before[len(self.scene.nodes)]
        kept = _alive(nodes, self.scene)
        copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        used = (
            {name for node in copies for name in node.input} | self.scene.captured | set(self.scene.outputs)
        )
        for position in reversed(range(len(self.graph.initializer))):
            if self.graph.initializer[position].name not in used:
                del self.graph.initializer[position]
        del self.graph.value_info[:]  # types of tensors may have changed


def _alive(nodes: list[NodeProto], scene: Scene) -> list[NodeProto]:
    """Nodes in order without those that only what is gone had read; others that nobody read stay."""
    while True:
        used = {name for node in nodes for name in node.input} | scene.captured | set(scene.outputs)
        kept = [
            node
            for node in nodes
            if any(name in used for name in node.output) or node.op_type not in _DROPPED
        ]
        if len(kept) == len(nodes):
            return sort(kept, scene)
        nodes = kept


_DROPPED = frozenset({Q, DQ, "Constant", "Identity", "Relu", "Cast"})


def sort(nodes: list[NodeProto], scene: Scene) -> list[NodeProto]:
    """Nodes such that each comes after what it reads, in their present order where that is so."""
    made = {name for node in nodes for name in node.output if name}
    ready = set[str]()
    result, waiting = list[NodeProto](), list(nodes)
    while waiting:
        rest = []
        for node in waiting:
            needs = {name for name in node.input if name in made} | (
                scene.captured & made if any(a.type in {5, 10} for a in node.attribute) else set()
            )
            if needs <= ready:
                result.append(node)
                ready |= set(node.output)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            return nodes  # a circle, which the checker will name
        waiting = rest
    return result


def never_negative(scene: Scene, name: str) -> bool:
    """Whether a tensor cannot hold negative values, as far as its operators tell."""
    index = scene.maker(name)
    op = scene.op(index)
    if op in {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus", "ReduceL2", "Sqrt"}:
        return True
    if op == "Clip" and len(scene.nodes[index].input) > 1:
        low = scene.nodes[index].input[1]
        return low in scene.constants and bool((np.asarray(scene.value(low)) >= 0).all())
    if op == DQ:
        parameters = scene.parameters(index)
        return parameters is not None and parameters.clips_at_zero
    moves = scene.rules.pass_through | {
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "MaxPool",
        "Identity",
    }
    if op in moves | {"Resize", "Upsample"}:
        return op != "Resize" and never_negative(scene, scene.nodes[index].input[0])
    if op == "Concat":
        return all(never_negative(scene, entry) for entry in scene.nodes[index].input)
    return False
