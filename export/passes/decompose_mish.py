"""Mish(x) = x * tanh(Softplus(x)): for runtimes older than opset 18.

Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2019, equation 1.
"""

from __future__ import annotations

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.rebuild import Formula
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node


def cases(_: Rng) -> Models:
    bodies = ("y = Mish(x)", "a = Mish(x) \n y = Add(a, x)")
    return [
        text_model(kind, "y", body, {}) for body in bodies for kind in ("float[2,3] x", "float[n,3,h,v] x")
    ]


@graph_pass("decompose-mish", atol=2e-6, cases=cases, ops=("Mish",))
def decompose_mish(graph: Graph, node: Node) -> int:
    x, write = node.inputs[0], Formula(graph, node)
    write("Mul", x, write("Tanh", write("Softplus", x)), last=True)
    return 1
