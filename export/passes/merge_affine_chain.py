"""a2*(a1*x + b1) + b2 = (a2 a1)*x + (a2 b1 + b2): a chain of scales and shifts becomes one of each.

PowerNorm and Unified Normalization, whose running statistics are constants (x / sqrt(phi) * w + b), are
such chains, and so is a BatchNormalization of tokens between two Transposes. The result is a
BatchNormalization where the chain has one, else Mul and Add; a chain that would not get shorter stays.
`propagate-affine` reaches the node counts of 5 of the 8 cases only: it moves one node into its neighbors,
while a pair of Transposes, constants that widen x, and one BatchNormalization instead of Mul and Add need
the whole chain. Shen et al., PowerNorm, 2020; Yang et al., Unified Normalization, 2022.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.affine.chain import chains, is_private, write
from edgedeploy.export.affine.reader import AFFINE
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, kept_names


def cases(rng: Rng) -> Models:
    image, tokens = "float[1,4,h,v] x", "float[2,n,6] x"
    c = {
        "c": floats(rng, 4, 1, 1) + 3,
        "d": floats(rng, 1, 4, 1, 1),
        "k": np.float32(-2),
        "s": rng.uniform(0.5, 2, 4).astype(np.float32),
    }
    t = {
        "phi": rng.uniform(1, 2, 6).astype(np.float32),
        "w": floats(rng, 6),
        "b": floats(rng, 6),
        "k": c["k"],
    }
    grown = {"c": c["c"], "o": np.ones((1, 3, 1, 1), np.float32), "z": 1 / c["c"]}
    power = "r = Div(x, phi) \n m = Mul(r, w) \n y = Add(m, b)"
    sixes, there = {"s": rng.uniform(0.5, 2, 6).astype(np.float32)}, "Transpose<perm=[0,2,1]>"
    norm = "BatchNormalization({}, s, s, s, s)"
    back = "a = Sub(k, x) \n m = Mul(w, a) \n q = Add(m, b) \n y = Sub(b, q)"
    return [
        text_model(tokens, "y", power, t),
        text_model(tokens, "y", back, t),
        text_model(image, "y", "m = Mul(x, c) \n y = Div(m, d)", c | {"d": c["c"] + 1}),
        text_model(image, "y", "a = Add(x, d) \n r = Sub(a, c) \n y = Relu(r)", c),
        text_model(image, "y", f"n = {norm.format('x')} \n m = Mul(n, k) \n y = Add(d, m)", c),
        text_model(image, "y", f"n = {norm.format('x')} \n y = {norm.format('n')}", c),
        text_model(tokens, "y", f"p = {there}(x) \n m = {norm.format('p')} \n y = {there}(m)", sixes),
        text_model("float[1,1,h,v] x", "y", "a = Mul(x, c) \n m = Mul(a, z) \n y = Tanh(m)", grown),
    ]  # fmt: skip


@graph_pass("merge-affine-chain", atol=1e-5, cases=cases, ops=(*AFFINE, "Transpose"), phase="merge")
def merge_affine_chain(graph: Graph, node: Node) -> int:
    found, result = chains(graph, node), node.outputs[0]
    if not found:
        return 0  # two computed operands, or a Transpose of its own
    if is_private(result, kept_names(graph)) and chains(graph, result.outputs[0]):
        return 0  # the last node of the chain is the candidate
    for chain in reversed(found):
        if chain.is_shorter_written:
            write(graph, chain)
            return 1
    if len(found) == 1:
        raise Skip(
            "no scale or shift stands before it that it can join: others read that too, or its axes differ"
        )
    raise Skip("no fewer operators than these compute the scale and the shift")
