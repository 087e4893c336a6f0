"""x * HardSigmoid(x; 1/6, 1/2) = HardSwish(x), an operator since opset 14.

Howard et al., Searching for MobileNetV3, ICCV 2019, section 5.2. `fuse-hardsigmoid` finds the first half.
"""

from __future__ import annotations

from math import isclose

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.polynomial import fuse
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, require_opset


def cases(_: Rng) -> Models:
    bodies = ("y = Mul(a, s)", "y = Mul(s, a)")
    kinds = ("float[2,3,8] x", "float[n,3,h,v] x")
    start = "a = Sin(x) \n s = HardSigmoid<alpha=0.16666667, beta=0.5>(a) \n "
    return [text_model(kind, "y", start + body, {}) for body in bodies for kind in kinds]


@graph_pass(
    "fuse-hardswish",
    atol=2e-6,
    cases=cases,
    ops=("HardSigmoid",),
    phase="recognize",
    after=("fuse-hardsigmoid",),
)
def fuse_hardswish(graph: Graph, node: Node) -> int:
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    if not isclose(alpha, 1 / 6, rel_tol=1e-6) or not isclose(beta, 0.5, rel_tol=1e-6):
        raise Skip(f"its slope and offset are {alpha:g} and {beta:g}, not 1/6 and 1/2")
    x, readers = node.inputs[0], node.outputs[0].outputs
    root = next((r for r in readers if r.op == "Mul" and any(tensor is x for tensor in r.inputs)), None)
    if root is None:
        raise Skip("it does not multiply what it reads")
    require_opset(graph, 14, "HardSwish")
    return fuse(graph, root, [node], "HardSwish", [x])
