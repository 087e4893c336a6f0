"""x * tanh(log(1 + e^x)) = x * tanh(Softplus(x)) = Mish(x), an operator since opset 18.

Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2019, equation 1.
"""

from __future__ import annotations

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.polynomial import fuse
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, producer, require_opset


def cases(_: Rng) -> Models:
    bodies = ("y = Mul(a, t)", "y = Mul(t, a)")
    kinds = ("float[1,3,8,6] x", "float[n,3,h,v] x")
    start = "a = Sin(x) \n p = Softplus(a) \n t = Tanh(p) \n "
    return [text_model(kind, "y", start + body, {}) for body in bodies for kind in kinds]


@graph_pass("fuse-mish", atol=2e-6, cases=cases, ops=("Tanh",), phase="recognize", after=("fuse-softplus",))
def fuse_mish(graph: Graph, node: Node) -> int:
    softplus = producer(node.inputs[0])
    if softplus is None or softplus.op != "Softplus":
        raise Skip("it is not the tanh of a Softplus")
    x, readers = softplus.inputs[0], node.outputs[0].outputs
    root = next((reader for reader in readers if reader.op == "Mul"), None)
    if root is None or not any(tensor is x for tensor in root.inputs):
        raise Skip("what it multiplies is not what Softplus reads")
    require_opset(graph, 18, "Mish")
    return fuse(graph, root, [node, softplus], "Mish", [x])
