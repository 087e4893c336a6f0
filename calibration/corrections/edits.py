"""Edits of constants in a float graph: a node gets a copy of its own, what nobody reads goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgedeploy.calibration.graph_view import GraphView


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


def drop_unused(model: onnx.ModelProto, view: GraphView) -> None:
    """Remove initializers that nothing reads any more."""
    used = {name for node in model.graph.node for name in node.input} | view.captured
    for position in reversed(range(len(model.graph.initializer))):
        name = model.graph.initializer[position].name
        if name not in used and name not in view.outputs:
            del model.graph.initializer[position]
