"""HardSwish(x) = x * HardSigmoid(x; 1/6, 1/2): for runtimes older than opset 14.

Howard et al., Searching for MobileNetV3, ICCV 2019, section 5.2.
"""

from __future__ import annotations

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.rebuild import Formula
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node


def cases(_: Rng) -> Models:
    bodies = ("y = HardSwish(x)", "a = HardSwish(x) \n y = Add(a, x)")
    return [
        text_model(kind, "y", body, {}) for body in bodies for kind in ("float[2,3] x", "float[n,3,h,v] x")
    ]


@graph_pass("decompose-hardswish", atol=2e-6, cases=cases, ops=("HardSwish",))
def decompose_hardswish(graph: Graph, node: Node) -> int:
    x, write = node.inputs[0], Formula(graph, node)
    write("Mul", x, write("HardSigmoid", x, alpha=1 / 6, beta=0.5), last=True)
    return 1
