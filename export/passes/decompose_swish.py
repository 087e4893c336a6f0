"""Swish(x; a) = x * sigmoid(a x): for runtimes older than opset 24.

Ramachandran, Zoph and Le, Searching for Activation Functions, 2017, equation 1.
"""

from __future__ import annotations

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.rebuild import Formula
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node


def cases(_: Rng) -> Models:
    bodies = ("y = Swish(x)", "a = Swish<alpha=1.7>(x) \n y = Add(a, x)")
    kinds = ("float[2,3] x", "float[n,3,h,v] x")
    return [text_model(kind, "y", body, {}, opset=24) for body in bodies for kind in kinds]


@graph_pass("decompose-swish", atol=2e-6, cases=cases, ops=("Swish",))
def decompose_swish(graph: Graph, node: Node) -> int:
    x, write = node.inputs[0], Formula(graph, node)
    alpha = float(node.attrs.get("alpha", 1.0))
    write("Mul", x, write("Sigmoid", x if alpha == 1 else write("Mul", x, alpha)), last=True)
    return 1
