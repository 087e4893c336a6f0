"""x * sigmoid(a x) = Swish(x; alpha = a), an operator since opset 24; SiLU for a = 1.

Not run by default: TensorRT fuses Sigmoid and Mul itself, and few runtimes read opset 24. Ramachandran, Zoph
and Le, Searching for Activation Functions, 2017, equation 1.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.polynomial import (
    below,
    fuse,
    polynomial,
    require_float,
    same_rank,
)
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, require_opset


def cases(_: Rng) -> Models:
    w = {"k": np.array(1.702, np.float32)}
    bodies = ("s = Sigmoid(a) \n y = Mul(a, s)", "b = Mul(a, k) \n s = Sigmoid(b) \n y = Mul(s, a)")
    kinds = ("float[2,3,8] x", "float[n,3,h,v] x")
    return [text_model(kind, "y", f"a = Sin(x) \n {body}", w, opset=24) for body in bodies for kind in kinds]


@graph_pass("fuse-swish", atol=2e-6, cases=cases, ops=("Sigmoid",))
def fuse_swish(graph: Graph, node: Node) -> int:
    for x in below(node.inputs[0]):
        line = polynomial(node.inputs[0], [x])
        root = next(
            (r for r in node.outputs[0].outputs if r.op == "Mul" and any(t is x for t in r.inputs)), None
        )
        if line is None or set(line.coefficients) != {(1,)} or root is None:
            continue
        require_float(x)
        if not same_rank(x, node.outputs[0]):
            raise Skip("the constant may broadcast the tensor to a larger rank")
        require_opset(graph, 24, "Swish")
        return fuse(graph, root, [node, *line.nodes], "Swish", [x], alpha=line.coefficients[1,])
    raise Skip("it does not multiply what it reads")
