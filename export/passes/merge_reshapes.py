"""Reshape(f(x)) = Reshape(x), where f keeps the order of values.

f is Reshape, Flatten, Squeeze, Unsqueeze, or a Transpose that moves only axes of size 1.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, kept_names, producer, value_of

_KEEPS_ORDER = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


def cases(_: Rng) -> Models:
    c = {
        "flat": np.array([2, -1]),
        "wide": np.array([2, 4, 3, 2]),
        "one": np.array([-1, 24, 1]),
        "axis": np.array([1]),
        "zero": np.array([0, 6, 4]),
    }
    image, dynamic, thin = "float[2,4,3,2] x", "float[n,4,3,2] x", "float[2,1,6,4] x"
    return [
        text_model(image, "y", "a = Reshape(x, flat) \n y = Reshape(a, wide)", c),
        text_model(dynamic, "y", "a = Flatten<axis=2>(x) \n y = Reshape(a, one)", c),
        text_model(dynamic, "y", "a = Unsqueeze(x, axis) \n b = Squeeze(a, axis) \n y = Reshape(b, flat)", c),
        text_model(thin, "y", "a = Transpose<perm=[0,2,3,1]>(x) \n y = Reshape(a, flat)", c),
        text_model(thin, "y, z", "a = Squeeze(x, axis) \n y = Reshape(a, flat) \n z = Relu(a)", c),
        text_model("float[n,1,h,v] x", "y", "a = Transpose<perm=[0,2,3,1]>(x) \n y = Reshape(a, one)", c),
    ]


@graph_pass(
    "merge-reshapes", atol=0.0, cases=cases, ops=("Reshape",), phase="clean", after=("drop-identity",)
)
def merge_reshapes(graph: Graph, node: Node) -> int:
    before = producer(node.inputs[0])
    if before is None or before.op not in _KEEPS_ORDER or before.domain not in (None, "", "ai.onnx"):
        return 0
    if before.outputs[0].name in kept_names(graph) and len(before.outputs[0].outputs) == 1:
        raise Skip(f"tensor '{before.outputs[0].name}' is an output as well, so nothing would go")
    shape = value_of(node.inputs[1], "the shape")
    if np.any(shape == 0):
        raise Skip("the shape copies a size (0) of what it reads")
    if before.op == "Transpose":
        _require_order(before)
    node.inputs[0] = before.inputs[0]
    return 1


def _require_order(node: Node) -> None:
    """Raise Skip unless a Transpose keeps the order of the axes longer than 1."""
    shape = node.inputs[0].shape
    if shape is None:
        raise Skip("the shape of what is transposed is not known")
    perm = node.attrs.get("perm", list(range(len(shape)))[::-1])
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved != sorted(moved):
        raise Skip("the transposition changes the order of values")
