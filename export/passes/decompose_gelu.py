"""Gelu(x) = x/2 * (1 + erf(x/sqrt 2)); tanh form: x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

For runtimes older than opset 20's Gelu. Hendrycks and Gimpel, 2016, equations 1 and 2.
"""

from __future__ import annotations

import math

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.rebuild import Formula
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node


def cases(_: Rng) -> Models:
    bodies = ("y = Gelu(x)", 'y = Gelu<approximate="tanh">(x)', "a = Gelu(x) \n y = Add(a, x)")
    return [
        text_model(kind, "y", body, {}) for body in bodies for kind in ("float[2,3] x", "float[n,3,h,v] x")
    ]


@graph_pass("decompose-gelu", atol=2e-6, cases=cases, ops=("Gelu",))
def decompose_gelu(graph: Graph, node: Node) -> int:
    x, write = node.inputs[0], Formula(graph, node)
    if node.attrs.get("approximate", "none") == "none":
        curve = write("Erf", write("Mul", x, math.sqrt(0.5)))
    else:
        cube = write("Mul", write("Mul", write("Mul", x, x), x), 0.044715)
        curve = write("Tanh", write("Mul", write("Add", x, cube), math.sqrt(2 / math.pi)))
    half = write("Mul", x, 0.5)
    write("Mul", half, write("Add", curve, 1.0), last=True)
    return 1
