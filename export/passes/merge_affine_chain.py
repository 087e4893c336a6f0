"""a2*(a1*x + b1) + b2 = (a2 a1)*x + (a2 b1 + b2): constants in a row become one scale and one shift.

PowerNorm and Unified Normalization, whose running statistics are constants (x / sqrt(phi) * w + b), come down
to this, and so does a BatchNormalization of tokens between two Transposes. The result is a BatchNormalization
where one was among them, else Mul and Add; a row that would not get shorter stays. Shen et al., PowerNorm,
2020; Yang et al., Unified Normalization, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.export.affine.scale_shift import OPERATORS, chain, emit, plan
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, kept_names


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
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


@graph_pass("merge-affine-chain", atol=1e-5, cases=cases, ops=(*OPERATORS, "Transpose"), phase="merge")
def merge_affine_chain(graph: Graph, node: Node) -> int:
    result = node.outputs[0]
    rows = chain(graph, node)
    if not rows:
        return 0  # two computed operands, or a Transpose of its own
    private = len(result.outputs) == 1 and result.name not in kept_names(graph)
    if private and chain(graph, result.outputs[0]):
        return 0  # tried from the end of the row
    for whole in reversed(rows):
        if len(plan(whole)) < len(whole.nodes):
            emit(graph, whole)
            return 1
    if len(rows) == 1:
        raise Skip(
            "no scale or shift that it can join stands before it: others read that too, or its axes differ"
        )
    raise Skip("a scale and a shift are what it takes already")
