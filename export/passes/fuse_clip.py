"""min(max(x, a), b) in several nodes (Relu, Clip, Max, Min with constants) = one Clip.

Clip(Clip(x, a, b), c, d) = Clip(x, Clip(a, c, d), Clip(b, c, d)). So ReLU6 written as Min(Relu(x), 6) becomes
Clip(x, 0, 6); a Clip by 0 and nothing else becomes Relu.
"""

from __future__ import annotations

import math

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.bounds import BOUNDING, bounds_of, clip_arguments
from edgedeploy.export.match.polynomial import fuse
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, dtype_name, producer


def cases(_: Rng) -> Models:
    w = {"zero": np.float32(0), "six": np.float32(6), "low": np.float32(-2), "one": np.ones(1, np.float32)}
    kinds = ("float[2,3,8] x", "float[n,3,h,v] x")
    bodies = [
        "a = Relu(x) \n y = Min(a, six)",
        "a = Min(six, x) \n y = Max(zero, a)",
        "a = Clip(x, low, one) \n y = Clip(a, zero, six)",
        "a = Clip(x, zero) \n y = Sin(a)",
        "a = Max(x, low) \n b = Min(a, one) \n y = Relu(b)",
    ]
    old = text_model("float[2,3,8] x", "y", "a = Relu(x) \n y = Clip<max=6.0>(a)", {}, opset=7)
    return [old, *(text_model(kind, "y", body, w) for body in bodies for kind in kinds)]


@graph_pass("fuse-clip", atol=0.0, cases=cases, ops=BOUNDING, phase="recognize")
def fuse_clip(graph: Graph, node: Node) -> int:
    x, low, high = bounds_of(node)
    if low > high:
        raise Skip("the bounds are out of order")
    inner = producer(x)
    if inner is None or inner.op not in BOUNDING:
        if node.op == "Clip" and low == 0 and math.isinf(high):
            return fuse(graph, node, [], "Relu", [x])
        raise Skip("it does not bound what is bounded already")
    if inner.op == node.op == "Relu":
        raise Skip("a Relu of a Relu changes nothing")
    source, first, last = bounds_of(inner)
    if first > last:
        raise Skip("the bounds are out of order")
    if dtype_name(source) != dtype_name(x):
        raise Skip("the type of the tensor is not known")
    low, high = (min(max(bound, low), high) for bound in (first, last))
    if low == 0 and math.isinf(high):
        return fuse(graph, node, [inner], "Relu", [source])
    inputs, attrs = clip_arguments(graph, source, node.outputs[0].name, low, high)
    return fuse(graph, node, [inner], "Clip", inputs, **attrs)
