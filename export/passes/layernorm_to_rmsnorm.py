"""LN(x) = RMSNorm(x - mean(x)), and mean(x) = 0 where all sources of the residual stream are centered.

The weights and biases that write into the stream are centered over its axis (W - mean(W), embeddings too),
and every LayerNormalization that reads it becomes an RMSNormalization (opset 23). Exact, but no measured
runtime gains: on request only. Jiang et al., Pre-RMSNorm and Pre-CRMSNorm Transformers, 2023.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.stream import Stream
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, float_of, has, require_opset

OPSET = 23  # of RMSNormalization
EPSILON = 1e-5


def cases(rng: Rng) -> Models:
    c = {
        "e": floats(rng, 5, 8), "pos": floats(rng, 1, 6, 8), "cls": floats(rng, 2, 1, 8),
        "g": floats(rng, 8) + 2,
        "h": floats(rng, 8) + 2, "w": floats(rng, 8, 8), "b": floats(rng, 8), "k": np.float32(3),
        "conv": floats(rng, 8, 3, 2, 2), "flat": np.array([2, 8, 6]),
    }  # fmt: skip
    embedded = "e0 = MatMul(x, e) \n x0 = Add(e0, pos) \n "
    branch = "n = LayerNormalization(x0, g) \n t = Tanh(n) \n p = MatMul(t, w) \n q = Add(p, b) \n "
    block = branch + "x1 = Add(q, x0) \n "
    image = (
        "c = Conv<strides=[2,2]>(x, conv, b) \n f = Reshape(c, flat) \n x0 = Transpose<perm=[0,2,1]>(f) \n "
    )
    joined = "x2 = Concat<axis=1>(cls, x1) \n s = Add(x2, k) \n y = LayerNormalization<epsilon=0.001>(s, h)"
    final = "y = LayerNormalization(x1, h)"
    return [
        text_model("float[2,6,5] x", "y", embedded + block + final, c, opset=OPSET),
        text_model("float[2,6,5] x", "y", embedded + block + joined, c, opset=OPSET),
        text_model("float[2,3,4,6] x", "y", image + block + final, c, opset=OPSET),
    ]


@graph_pass("layernorm-to-rmsnorm", atol=1e-5, cases=cases, ops=("LayerNormalization",))
def layernorm_to_rmsnorm(graph: Graph, node: Node) -> int:
    require_opset(graph, OPSET, "RMSNormalization")
    stream = Stream(graph)
    stream.follow(node.inputs[0])
    for norm in stream.norms:
        if has(norm, 2) and np.any(float_of(norm.inputs[2], f"the shift of '{norm.name}'")):
            raise Skip(f"'{norm.name}' has a shift; run fold-layernorm-affine before")
        if len(norm.outputs) > 1:
            raise Skip(f"'{norm.name}' gives its mean too")
    stream.center()
    for norm in stream.norms:
        epsilon = float(norm.attrs.get("epsilon", EPSILON))
        norm.op, norm.inputs = "RMSNormalization", list(norm.inputs[:2])
        norm.attrs.clear()
        norm.attrs.update(axis=-1, epsilon=epsilon)
    return 1
