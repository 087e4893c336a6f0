"""x/2 * (1 + erf(x/sqrt 2)) = Gelu(x), and x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = its tanh form.

Opset 20 has both. One operator instead of five is one kernel where the runtime does not fuse them itself, and
one place for Q/DQ. Hendrycks and Gimpel, 2016, equations 1 and 2.
"""

from __future__ import annotations

import math

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.polynomial import (
    Coefficients,
    above,
    below,
    fuse,
    polynomial,
    require_float,
    same_rank,
)
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, require_opset

_TANH = math.sqrt(2 / math.pi)
_INNER: dict[str, Coefficients] = {
    "Erf": {(1,): math.sqrt(0.5)},
    "Tanh": {(1,): _TANH, (3,): _TANH * 0.044715},
}
_OUTER: Coefficients = {(1, 0): 0.5, (1, 1): 0.5}
_APPROXIMATE = {"Erf": "none", "Tanh": "tanh"}


def cases(_: Rng) -> Models:
    w = {
        "r": np.float32(math.sqrt(2)),
        "q": np.float32(math.sqrt(0.5)),
        "h": np.float32(0.5),
        "one": np.ones(1, np.float32),
        "k": np.float32(0.044715),
        "t": np.float32(_TANH),
        "three": np.float32(3),
    }
    tanh = "p = Pow(a, three) \n k3 = Mul(p, k) \n s = Add(a, k3) \n u = Mul(s, t) \n v = Tanh(u) \n "
    cubed = "b = Mul(a, a) \n c = Mul(a, b) \n k3 = Mul(k, c) \n s = Add(a, k3) \n u = Mul(t, s) \n "
    bodies = [
        "d = Div(a, r) \n e = Erf(d) \n s = Add(e, one) \n m = Mul(a, s) \n y = Mul(m, h)",
        "d = Mul(q, a) \n e = Erf(d) \n s = Add(one, e) \n m = Mul(h, a) \n y = Mul(m, s)",
        "d = Div(a, r) \n e = Erf(d) \n s = Add(e, one) \n m = Mul(s, h) \n z = Mul(a, m) \n y = Mul(z, a)",
        f"{tanh} w = Add(v, one) \n m = Mul(a, h) \n y = Mul(m, w)",
        f"{cubed} v = Tanh(u) \n w = Add(one, v) \n m = Mul(w, h) \n y = Mul(a, m)",
    ]
    kinds = ("float[2,3,8] x", "float[n,3,h1,w1] x")
    return [text_model(kind, "y", f"a = Sin(x) \n {body}", w) for body in bodies for kind in kinds]


@graph_pass("fuse-gelu", atol=2e-6, cases=cases, ops=("Erf", "Tanh"), phase="recognize")
def fuse_gelu(graph: Graph, node: Node) -> int:
    near = False
    for x in below(node.inputs[0]):
        inner = polynomial(node.inputs[0], [x])
        if (
            inner is None
            or set(inner.coefficients) != set(_INNER[node.op])
            or not same_rank(x, node.outputs[0])
        ):
            continue
        for root in above(node.outputs[0]):
            outer = polynomial(root.outputs[0], [x, node.outputs[0]])
            if outer is None or set(outer.coefficients) != set(_OUTER):
                continue
            near = True
            dtype = require_float(x)
            if inner.equals(_INNER[node.op], dtype) and outer.equals(_OUTER, dtype):
                require_opset(graph, 20, "Gelu")
                nodes = [node, *inner.nodes, *outer.nodes]
                return fuse(graph, root, nodes, "Gelu", [x], approximate=_APPROXIMATE[node.op])
    raise Skip("a constant is not that of GELU" if near else "it is not part of x/2 * (1 + f(x))")
