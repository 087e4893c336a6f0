"""x / sqrt(mean x^2 + e) * g = RMSNormalization(x; g, e), an operator since opset 23.

`fuse-layernorm` rewrites centered x. Zhang and Sennrich, Root Mean Square Layer
Normalization, NeurIPS 2019, equation 4.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.moments import fuse_norm, standardized
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, require_opset


def cases(rng: Rng) -> Models:
    w = {
        "two": np.float32(2), "e": np.float32(1e-6), "last": np.array([-1]),
        "g": np.asarray(rng.standard_normal(8), np.float32),
    }  # fmt: skip
    start = "q = {} \n v = ReduceMean(q, last) \n s = Add(v, e) \n r = Sqrt(s) \n "
    first = start.format("Pow(x, two)") + "i = Reciprocal(r) \n n = Mul(x, i) \n y = Mul(g, n)"
    second = start.format("Mul(x, x)") + "n = Div(x, r) \n y = Tanh(n)"
    return [
        text_model("float[2,4,8] x", "y", first, w, opset=23),
        text_model("float[n,t,8] x", "y", second, w, opset=23),
    ]


@graph_pass("fuse-rmsnorm", atol=1e-5, cases=cases, ops=("Sqrt", "Pow"), phase="recognize")
def fuse_rmsnorm(graph: Graph, node: Node) -> int:
    found = standardized(node)
    if found.centering is not None:
        raise Skip("what it normalizes is centered: that is a LayerNorm")
    require_opset(graph, 23, "RMSNormalization")
    return fuse_norm(graph, found, "RMSNormalization", found.d, [], axis=found.axis - found.rank)
