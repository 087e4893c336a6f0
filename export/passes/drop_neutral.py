"""x*1 = x/1 = x^1 = x+0 = x-0 = x, where the constant does not broadcast x to a larger shape."""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Constant, Graph, Node, Skip, Tensor, bypass, dtype_name, is_constant

_NEUTRAL = {"Mul": 1, "Div": 1, "Pow": 1, "Add": 0, "Sub": 0}


def cases(_: Rng) -> Models:
    constants = {
        "one": np.float32(1),
        "ones": np.ones((3, 1, 1), np.float32),
        "none": np.zeros((1, 3, 1, 1), np.float32),
    }
    bodies = [
        "a = Tanh(x) \n b = Mul(a, ones) \n y = Div(b, one)",
        "a = Tanh(x) \n b = Add(none, a) \n c = Sub(b, none) \n y = Pow(c, one)",
    ]
    kinds = ("float[1,3,8,6] x", "float[n,3,h,v] x")
    return [text_model(kind, "y", body, constants) for body in bodies for kind in kinds]


@graph_pass(
    "drop-neutral", atol=0.0, cases=cases, ops=tuple(_NEUTRAL), phase="clean", after=("drop-identity",)
)
def drop_neutral(graph: Graph, node: Node) -> int:
    for index in (0, 1) if node.op in ("Mul", "Add") else (0,):
        x, other = node.inputs[index], node.inputs[1 - index]
        if not is_constant(other) or is_constant(x) or not np.all(other.values == _NEUTRAL[node.op]):
            continue
        if _widens(x, other):
            raise Skip("the constant broadcasts the tensor to a larger shape")
        if dtype_name(other) != dtype_name(x):
            raise Skip("the exponent is of another type")
        bypass(graph, node, index)
        return 1
    return 0


def _widens(x: Tensor, other: Constant) -> bool:
    """Whether the constant's shape is, or may be, larger than the tensor's."""
    if not other.shape:
        return False
    shape = x.shape
    if shape is None or len(other.shape) > len(shape):
        return True
    pairs = zip(reversed(other.shape), reversed(shape), strict=False)
    return any(size not in (1, dim) for size, dim in pairs)
