"""Edits of a float graph: a node gets a constant of its own, a tensor a factor, what nobody reads goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgedeploy.graphs.view import GraphView


def give(model: onnx.ModelProto, view: GraphView, index: int, position: int, value: NDArray[Any]) -> None:
    """Let one node read another float32 value in place of a constant; other readers keep the old one."""
    node = view.nodes[index]
    name = f"{node.input[position]}_{index}_scaled"
    while name in view.constants or name in view.producer:
        name += "_"
    tensor = numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name)
    model.graph.initializer.append(tensor)
    view.constants[name] = tensor
    node.input[position] = name


def multiply(
    model: onnx.ModelProto, view: GraphView, factors: Mapping[str, NDArray[Any]], label: str
) -> None:
    """Let all readers of some tensors read them times a constant, one Mul for each.

    Args:
        model, view: edited in place; the view's places in the graph no longer hold afterward.
        factors: by tensor, in a shape that broadcasts to it.
        label: what the new names end with.
    """
    # Last first, so that the places of those before it still hold.
    for name in sorted(factors, key=lambda name: view.producer.get(name, -1), reverse=True):
        output, factor = f"{name}_{label}_output", f"{name}_{label}_factor"
        value = np.ascontiguousarray(factors[name], dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, factor))
        for consumer, position in view.consumers[name]:
            view.nodes[consumer].input[position] = output
        node = helper.make_node("Mul", [name, factor], [output], f"{name}_{label}")
        model.graph.node.insert(view.producer.get(name, -1) + 1, node)


def drop_unused(model: onnx.ModelProto, view: GraphView) -> None:
    """Remove initializers that nothing reads any more."""
    used = {name for node in model.graph.node for name in node.input} | view.captured
    for position in reversed(range(len(model.graph.initializer))):
        name = model.graph.initializer[position].name
        if name not in used and name not in view.outputs:
            del model.graph.initializer[position]
