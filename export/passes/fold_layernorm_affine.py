"""W (N(x)*g + b) + c = (W g) N(x) + (c + W b): scale and shift of a LayerNorm move into consuming products.

The search of `propagate-affine` moves them to all consumers (q, k and v may share one norm); a product
without bias blocks a shift. The norm stays, with scale 1 and no shift. No node is saved, so the pass runs on
request only: before `layernorm-to-rmsnorm`.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.affine.absorbing import norm_parameters
from edgedeploy.export.affine.search import Search, commit
from edgedeploy.export.affine.value import Affine, known_shape
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, constant


def cases(rng: Rng) -> Models:
    c = {"g": floats(rng, 6) + 2, "b": floats(rng, 6), "w": floats(rng, 6, 8), "v": floats(rng, 6, 4)}
    c |= {"c": floats(rng, 8), "d": floats(rng, 1, 4), "k": floats(rng, 4)}
    norm = "n = LayerNormalization(x, g, b) \n p = MatMul(n, w) \n q = Add(c, p) \n "
    shared = "r = MatMul(n, v) \n z = Add(r, d)"
    plain = "n = LayerNormalization(x, g) \n y = MatMul(n, w)"
    rows = "n = LayerNormalization(x, g, b) \n y = Gemm<alpha=0.5, beta=2.0>(n, v, k)"
    return [
        text_model("float[2,n,6] x", "y", norm + "y = Relu(q)", c),
        text_model("float[2,n,6] x", "q, z", norm + shared, c),
        text_model("float[2,n,6] x", "y", plain, c),
        text_model("float[3,6] x", "y", rows, c),
        text_model("float[3,6] x", "y", rows.replace("<", "<transB=1, "), c | {"v": c["v"].T.copy()}),
    ]


@graph_pass("fold-layernorm-affine", atol=1e-5, cases=cases, ops=("LayerNormalization",))
def fold_layernorm_affine(graph: Graph, node: Node) -> int:
    scale, shift = norm_parameters(node)
    if np.all(scale == 1) and not np.any(shift):
        return 0
    x, y = node.inputs[0], node.outputs[0]
    value = Affine(scale, shift).broadcast(len(known_shape(y)))
    plan = Search(graph, node, x, forward=True).plan(Affine.of(value.scale, value.shift))
    if plan.added:
        raise Skip("a matrix product that reads it has no bias to take the shift")
    commit(graph, plan)
    node.inputs = [x, constant(graph, node.inputs[1].name, np.ones(scale.shape), node.inputs[1].dtype)]
    return 1
