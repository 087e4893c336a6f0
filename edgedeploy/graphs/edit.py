"""Edit an ONNX model: unique names, constants, nodes put in, readers redirected, what nobody reads swept out.

The one editor of protobuf models; graph passes edit by the verbs of surgeon.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgedeploy.graphs.view import GraphView, reads, topological_order


class GraphEditor:
    """Changes the model of a view in place.

    Inputs and outputs of nodes change at once; nodes are put in, and what nobody reads is dropped, by
    `commit`. Until then positions in the view hold.
    """

    def __init__(self, view: GraphView) -> None:
        self.view, self.model, self.graph = view, view.model, view.model.graph
        self._taken = {name for node in view.nodes for name in (node.name, *node.input, *node.output)}
        self._taken |= {entry.name for entry in (*self.graph.input, *self.graph.initializer)}
        self._added: defaultdict[int, list[NodeProto]] = defaultdict(list)

    def unique(self, name: str) -> str:
        """`name`, or with a number where a node or tensor of that name exists; it is taken from now on."""
        candidate, number = name, 1
        while candidate in self._taken:
            candidate, number = f"{name}_{number}", number + 1
        self._taken.add(candidate)
        return candidate

    def constant(self, name: str, value: NDArray[Any] | np.generic | TensorProto) -> str:
        """Add an initializer; returns its name, made unique."""
        name = self.unique(name)
        tensor = self.graph.initializer.add()
        tensor.CopyFrom(
            value if isinstance(value, TensorProto) else numpy_helper.from_array(np.array(value, order="C"))
        )
        tensor.name = name
        self.view.constants[name] = tensor
        return name

    def insert(self, index: int, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Put a node before the one at `index`; returns the name of its output, made unique."""
        output = self.unique(output)
        self.append(
            helper.make_node(op, inputs, [output], self.unique(f"{output}_{op}"), **attributes), index
        )
        return output

    def append(self, node: NodeProto, index: int) -> None:
        """Put a ready node before the one at `index`, behind those put there already."""
        self._added[index].append(node)

    def read(self, index: int, position: int, name: str) -> None:
        """Let one input of a node read another tensor."""
        self.view.nodes[index].input[position] = name

    def rename_output(self, old: str, new: str) -> str:
        """Let the producer of `old` compute it under a new name, made unique; readers still read `old`."""
        outputs = self.view.nodes[self.view.producer[old]].output
        name = self.unique(new)
        outputs[list(outputs).index(old)] = name
        return name

    def redirect(self, old: str, new: str, keep: Collection[int] = ()) -> None:
        """Let every reader of `old` but the nodes `keep`, and the graph's output, have `new`."""
        for index, position in self.view.consumers[old]:
            if index not in keep:
                self.read(index, position, new)
        if old in self.view.outputs:
            self.rename_output(old, f"{old}_unused")
            identity = helper.make_node("Identity", [new], [old], self.unique(f"{old}_Identity"))
            self.append(identity, len(self.view.nodes))

    def replace_constant(self, index: int, position: int, value: NDArray[Any]) -> None:
        """Let one node read another float32 value; other readers of its constant keep the old one."""
        old = self.view.nodes[index].input[position]
        self.read(index, position, self.constant(f"{old}_{index}_scaled", value.astype(np.float32)))

    def multiply(self, name: str, factor: NDArray[Any], label: str) -> None:
        """Let all readers of a tensor read it times a float32 constant that broadcasts to it."""
        constant = self.constant(f"{name}_{label}_factor", factor.astype(np.float32))
        after = self.view.maker(name) + 1
        output = self.insert(after, "Mul", [name, constant], f"{name}_{label}_output")
        for index, position in self.view.consumers[name]:
            self.read(index, position, output)

    def forget(self, index: int, *names: str) -> None:
        """Remove attributes of a node."""
        attributes = self.view.nodes[index].attribute
        for position in reversed(range(len(attributes))):
            if attributes[position].name in names:
                del attributes[position]

    def commit(self, only: Collection[str] | None = frozenset()) -> None:
        """Write the nodes in topological order, and `sweep`; the view is of the past afterward."""
        nodes: list[NodeProto] = []
        for index, node in enumerate(self.view.nodes):
            nodes += [*self._added[index], node]
        set_nodes(self.graph, sorted_nodes([*nodes, *self._added[len(self.view.nodes)]]))
        sweep(self.model, only)


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model, weights included."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def copy_node(node: NodeProto) -> NodeProto:
    """A copy of a node."""
    result = NodeProto()
    result.CopyFrom(node)
    return result


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Replace the nodes of a graph, whose own may be among the new ones."""
    copies = [copy_node(node) for node in nodes]  # protobuf frees what is removed from a container
    del graph.node[:]
    graph.node.extend(copies)


def add_outputs(model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Let float32 tensors from inside the model be outputs too, in place."""
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in dict.fromkeys(names)
        if name not in known
    )


def sorted_nodes(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Nodes such that each comes after what it reads, in their present order where that is so.

    A circle is left in place, for the checker to name.
    """
    order = topological_order(nodes)
    return [nodes[index] for index in order] if len(order) == len(nodes) else list(nodes)


def sweep(model: onnx.ModelProto, only: Collection[str] | None = None) -> None:
    """Remove nodes and initializers that lead to no output, in place; nodes must be in topological order.

    Of nodes, those whose operator is in `only` and Constants go; with None all do.
    """
    graph = model.graph
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        stays = only is not None and node.op_type not in only and node.op_type != "Constant"
        if stays or not used.isdisjoint(node.output):
            kept.append(node)
            used |= reads(node)
    if len(kept) < len(graph.node):
        set_nodes(graph, reversed(kept))
    unread = {tensor.name for tensor in graph.initializer} - used
    known = used.union(*(node.output for node in graph.node))
    # Before IR version 4 initializers are listed as inputs too.
    for holder, stale in (
        (graph.initializer, unread),
        (graph.input, unread),
        (graph.value_info, {value.name for value in graph.value_info} - known),
    ):
        for position in reversed(range(len(holder))):
            if holder[position].name in stale:
                del holder[position]
