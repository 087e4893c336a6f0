"""Replace one operator by the nodes of a formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgedeploy.export.match.polynomial import require_float
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Tensor,
    constant,
    detach,
    insert,
    variable,
)


class Formula:
    """Nodes that replace `node`; the one called with `last` writes the output `result` of `node`."""

    def __init__(self, graph: Graph, node: Node) -> None:
        require_float(node.inputs[0])
        self.graph, self.result = graph, node.outputs[0]
        self.dtype, self.shape = node.inputs[0].dtype, node.inputs[0].shape
        self.place = next(index for index, other in enumerate(graph.nodes) if other is node)
        self.node = node

    def __call__(self, op: str, *inputs: Tensor | float, last: bool = False, **attrs: Any) -> Tensor:
        """The output of a new node; numbers become scalar constants of the tensor's type."""
        tensors = [
            constant(self.graph, f"{self.result.name}_constant", np.asarray(value), self.dtype)
            if isinstance(value, (int, float))
            else value
            for value in inputs
        ]
        output = self.result
        if last:
            detach(self.node)
        else:
            dtype = np.int64 if op == "Shape" else self.dtype
            output = variable(self.graph, f"{self.result.name}_{op.lower()}", dtype)
        insert(self.graph, op, tensors, [output], at=self.place, **attrs)
        self.place += 1
        return output

    def mean(self, x: Tensor, axes: list[int]) -> Tensor:
        """ReduceMean with its axes kept: an attribute before opset 18, an input since."""
        if self.graph.opset < 18:
            return self("ReduceMean", x, axes=axes, keepdims=1)
        return self("ReduceMean", x, constant(self.graph, "axes", np.array(axes, np.int64)), keepdims=1)
