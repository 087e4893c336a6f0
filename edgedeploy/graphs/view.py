"""Who computes and who reads each tensor of an ONNX graph: producers, consumers, constants, shapes.

A view is of one moment: it is not updated when the graph is edited (edit.py does that). Nodes are named by
their index, as protobuf messages cannot be dictionary keys.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from edgedeploy.core.errors import CalibrationError

Edge = tuple[int, int]  # index of the consuming node, index among its inputs
_BODIES = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
# What leaves each value at its place: between a Concat and what reads it they are looked through.
_KEEPING = frozenset({"Relu", "Identity", "QuantizeLinear", "DequantizeLinear"})


class GraphView:
    """Producers, consumers, constants and inferred shapes of the main graph.

    Attributes:
        model: not copied.
        producer: tensor -> index of its node; graph inputs and constants have none.
        consumers: tensor -> edges that read it, in graph order.
        constants: initializers and the values of Constant nodes.
        captured: tensors that a subgraph (If, Loop) reads from outside.
        outputs, inputs: names of graph outputs and of the inputs that are fed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.constants: dict[str, TensorProto] = {i.name: i for i in graph.initializer}
        self.producer: dict[str, int] = {}
        self.consumers: defaultdict[str, list[Edge]] = defaultdict(list)
        self.captured: set[str] = set()
        for index, node in enumerate(self.nodes):
            if node.op_type == "Constant" and (value := attribute(node, "value")) is not None:
                self.constants[node.output[0]] = value
            else:
                self.producer.update((name, index) for name in node.output if name)
            for position, name in enumerate(node.input):
                if name:
                    self.consumers[name].append((index, position))
            self.captured |= outer_names(node)
        self.inputs = [i.name for i in graph.input if i.name not in self.constants]
        self.outputs = [o.name for o in graph.output]

    @cached_property
    def _inferred(self) -> tuple[dict[str, tuple[int | None, ...]], set[str]]:
        return _inferred(self.model)

    @property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Tensor -> dimensions, None where unknown; absent where even the rank is.

        Inferred when first asked for; raises CalibrationError where they cannot be.
        """
        return self._inferred[0]

    @property
    def float32(self) -> set[str]:
        """Names of tensors known to be float32; raises as `shapes` does."""
        return self._inferred[1]

    def label(self, index: int) -> str:
        """The node's name, or its operator and position where it has none."""
        node = self.nodes[index]
        return node.name or f"{node.op_type}_{index}"

    def op(self, index: int) -> str:
        """Operator of a node, "" for -1."""
        return str(self.nodes[index].op_type) if index >= 0 else ""

    def maker(self, name: str) -> int:
        """Index of the node that computes a tensor, -1 for inputs and constants."""
        return self.producer.get(name, -1)

    def maker_node(self, name: str) -> NodeProto | None:
        """The node that computes a tensor, None for inputs and constants."""
        index = self.producer.get(name)
        return None if index is None else self.nodes[index]

    def readers(self, name: str) -> list[int]:
        """Indices of the nodes that read a tensor, each once."""
        return list(dict.fromkeys(index for index, _ in self.consumers[name]))

    def is_external(self, name: str) -> bool:
        """Whether a tensor is read from outside the main graph: as its output, or by a body of If or Loop."""
        return name in self.outputs or name in self.captured

    def is_private(self, name: str) -> bool:
        """Whether one node reads the tensor once and nothing else does."""
        return len(self.consumers[name]) == 1 and not self.is_external(name)

    def ancestors(self, index: int) -> Iterator[int]:
        """Nodes whose results a node needs through computed inputs, nearest first."""
        yield from _reached(index, lambda node: map(self.maker, self.data_inputs(node)))

    def descendants(self, index: int) -> Iterator[int]:
        """Nodes that need a node's results, nearest first."""
        yield from _reached(
            index, lambda node: (reader for name in self.nodes[node].output for reader in self.readers(name))
        )

    def value(self, name: str) -> NDArray[Any]:
        """A constant's value."""
        return numpy_helper.to_array(self.constants[name])

    def is_activation(self, name: str) -> bool:
        """Whether the tensor is computed or fed, and float32: such can be quantized."""
        return bool(name) and name not in self.constants and name in self.float32

    def data_inputs(self, index: int) -> list[str]:
        """The node's inputs that are not constants."""
        return [name for name in self.nodes[index].input if name and name not in self.constants]

    def joins_tokens(self, name: str) -> bool:
        """Whether a tensor is a Concat's along another axis than its last, as far as shapes are known."""
        index = self.producer.get(name)
        while index is not None and self.nodes[index].op_type in _KEEPING:
            index = self.producer.get(self.nodes[index].input[0])
        if index is None or self.nodes[index].op_type != "Concat":
            return False
        axis, rank = attribute(self.nodes[index], "axis", 0), len(self.shapes.get(name, ()))
        return axis not in {-1, rank - 1}


def _reached(start: int, neighbors: Callable[[int], Iterable[int]]) -> Iterator[int]:
    """Every node that neighbors lead to from `start`, itself left out, breadth first."""
    queue, seen = deque([start]), {start, -1}
    while queue:
        for index in neighbors(queue.popleft()):
            if index not in seen:
                seen.add(index)
                queue.append(index)
                yield index


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Value of an attribute, or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def concrete(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A copy of the model whose inputs have these shapes."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for value in result.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape
            del dims.dim[:]
            for size in shapes[value.name]:
                dims.dim.add().dim_value = size
    return result


def reads(node: NodeProto) -> set[str]:
    """Names of the tensors that a node reads, those that its bodies read from outside included."""
    return {name for name in node.input if name} | outer_names(node)


def topological_order(nodes: Sequence[NodeProto]) -> list[int]:
    """Positions of nodes such that each comes after what it reads, in their present order where that is so.

    Nodes that wait for their own results are left out.
    """
    made = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [{made[name] for name in reads(node) if name in made} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for index, needed in enumerate(needs):
        for maker in needed:
            readers[maker].append(index)
    waits = [len(needed) for needed in needs]
    ready = [index for index, count in enumerate(waits) if not count]
    order: list[int] = []
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    return order


def outer_names(node: NodeProto) -> set[str]:
    """Names that the bodies of an If or Loop read from outside."""
    return set(_outer_names(node))


def _outer_names(node: NodeProto) -> Iterator[str]:
    """Names that the bodies of an If or Loop read from outside, at any depth; some more than once."""
    for entry in node.attribute:
        for graph in (entry.g, *entry.graphs) if entry.type in _BODIES else ():
            made = {i.name for i in graph.initializer} | {i.name for i in graph.input}
            made |= {name for inner in graph.node for name in inner.output}
            used = {name for inner in graph.node for name in inner.input} | {o.name for o in graph.output}
            yield from used - made
            for inner in graph.node:
                yield from set(_outer_names(inner)) - made


def _inferred(model: onnx.ModelProto) -> tuple[dict[str, tuple[int | None, ...]], set[str]]:
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise CalibrationError(
            f"shapes of the model cannot be inferred: {error}", "run the graph passes before calibration"
        ) from error
    shapes: dict[str, tuple[int | None, ...]] = {}
    floats: set[str] = set()
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type == TensorProto.FLOAT:
            floats.add(value.name)
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
                for dim in tensor.shape.dim
            )
    return shapes, floats


def elements(shape: tuple[int | None, ...] | None) -> int | None:
    """Number of elements, None where a dimension is unknown."""
    if shape is None or None in shape:
        return None
    return int(np.prod([dim or 1 for dim in shape], dtype=np.int64))
