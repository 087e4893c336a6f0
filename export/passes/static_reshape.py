"""Reshape to a computed shape = Reshape to a constant with 0 for kept sizes and at most one -1.

Shape-Slice-Concat chains that copy the batch or the height of the input are redundant: 0 keeps the size of
the same axis, and the number of elements determines one more size.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.sizes import dim, sizes
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, constant, is_constant


def cases(_: Rng) -> Models:
    w = {
        "i0": np.array(0),
        "i2": np.array([2]),
        "from0": np.array([0]),
        "to1": np.array([1]),
        "to2": np.array([2]),
        "rest": np.array([-1]),
        "four": np.array([4]),
        "axis": np.array([0]),
    }
    image, shape = "float[n,4,h,v] x", "s = Shape(x) \n "
    batch = f"{shape} b = Gather(s, i0) \n u = Unsqueeze(b, axis) \n "
    pixels = f"{shape} b = Slice(s, from0, to2) \n g = Gather(s, i2) \n k = Shape<start=3>(x) \n "
    bodies = [
        f"{shape} b = Slice(s, from0, to1) \n r = Concat<axis=0>(b, rest) \n y = Reshape(x, r)",
        f"{batch} r = Concat<axis=0>(u, four, rest) \n a = Relu(x) \n y = Reshape(a, r)",
        f"{pixels} m = Mul(g, k) \n r = Concat<axis=0>(b, m) \n y = Reshape<allowzero=1>(x, r)",
    ]
    return [text_model(image, "y", body, w) for body in bodies]


@graph_pass("static-reshape", atol=0.0, cases=cases, ops=("Reshape",), phase="recognize")
def static_reshape(graph: Graph, node: Node) -> int:
    x, shape = node.inputs
    if is_constant(shape):
        raise Skip("its shape is a constant")
    wanted = sizes(shape)
    if wanted is None or wanted.ndim != 1:
        raise Skip("what its shape is computed from is not known")
    if node.attrs.get("allowzero", 0) and any(isinstance(size, int) and size == 0 for size in wanted):
        raise Skip("0 means no elements here")
    rank = len(x.shape) if x.shape is not None else 0
    numbers: list[int] = []
    for place, size in enumerate(wanted):
        if isinstance(size, int):
            numbers.append(size)
        elif place < rank and size is not None and size == dim(x, place):
            numbers.append(0)
        else:
            numbers.append(-1)
    if numbers.count(-1) > 1:
        raise Skip(f"{numbers.count(-1)} of its sizes are open, and one -1 stands for one")
    node.attrs.pop("allowzero", None)
    node.inputs[1] = constant(graph, f"{node.outputs[0].name}_shape", np.array(numbers, np.int64))
    return 1
