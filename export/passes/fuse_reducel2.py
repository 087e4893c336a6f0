"""sqrt(sum x^2) = ReduceL2(x), over the same axes, as in the decomposition of vector normalization.

The division and its guard against zero stay, because LpNormalization has no guard.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.moments import axes_of, squared
from edgedeploy.export.match.polynomial import fuse, scalar
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, producer


def cases(_: Rng) -> Models:
    w = {"two": np.float32(2), "one": np.array([-1]), "e": np.float32(1e-12), "half": np.float32(0.5)}
    return [
        text_model(
            "float[2,10] x", "y",
            "p = Mul(x, x) \n s = ReduceSum(p, one) \n n = Sqrt(s) \n m = Clip(n, e) \n y = Div(x, m)", w,
        ),
        text_model(
            "float[n,4,h,v] x", "y", "p = Pow(x, two) \n s = ReduceSum<keepdims=0>(p, one) \n y = Sqrt(s)", w,
        ),
        text_model(
            "float[2,4,5] x", "y", "p = Mul(x, x) \n s = ReduceSum<axes=[1]>(p) \n y = Sqrt(s)", w, opset=11,
        ),
        text_model("float[2,4,5] x", "y", "s = ReduceSumSquare(x, one) \n y = Sqrt(s)", w),
        text_model("float[2,4,5] x", "y", "s = ReduceSumSquare(x, one) \n y = Pow(s, half)", w),
    ]  # fmt: skip


@graph_pass("fuse-reducel2", atol=2e-6, cases=cases, ops=("Sqrt", "Pow"), phase="recognize")
def fuse_reducel2(graph: Graph, node: Node) -> int:
    total = producer(node.inputs[0])
    if total is None or total.op not in ("ReduceSum", "ReduceSumSquare"):
        raise Skip("it is not the root of a sum")
    if node.op == "Pow" and scalar(node.inputs[1]) != 0.5:
        raise Skip("its exponent is not a constant 1/2")
    source = total.inputs[0]
    squares: list[Node] = []
    if total.op == "ReduceSum":
        source, squares = squared(source)
    if len(total.inputs) > 1 and graph.opset < 18:
        # ReduceSum takes its axes as an input from opset 13 on, ReduceL2 from 18 on.
        attrs = {"axes": axes_of(total), "keepdims": int(total.attrs.get("keepdims", 1))}
        return fuse(graph, node, [total, *squares], "ReduceL2", [source], **attrs)
    return fuse(graph, node, [total, *squares], "ReduceL2", [source, *total.inputs[1:]], **total.attrs)
