"""(N(x)*s + t)*a + b = N(x)*(s a) + (t a + b): a norm absorbs the constants right after it.

LayerNorm, RMSNorm, InstanceNorm and GroupNorm compute statistics of every input, so the operator stays.
LayerNorm Scaling (1/sqrt(layer)) and a LayerScale after a norm are such constants. Sun et
al., The Curse of Depth, 2025.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.affine.reader import is_affine
from edgedeploy.export.affine.search import fold
from edgedeploy.export.affine.value import NORMS
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip

STAYS = "its statistics are taken from every input, so it cannot fold into weights; "


def cases(rng: Rng) -> Models:
    c = {"s": floats(rng, 6) + 2, "t": floats(rng, 6), "k": np.float32(0.5), "d": floats(rng, 1, 6)}
    c["r"] = floats(rng, 2, 6)
    i = {"s": c["s"], "t": c["t"], "k": c["k"], "p": floats(rng, 1, 6, 1, 1), "q": floats(rng, 6, 1, 1)}
    tokens, image = "float[2,n,6] x", "float[2,6,h,v] x"
    instance = "m = InstanceNormalization(x, s, t) \n "
    i["shape"] = np.array([2, 6, 5, 4])  # shape inference knows nothing of GroupNormalization
    group = "m = GroupNormalization<num_groups=3>(x, s, t) \n n = Mul(p, m) \n y = Reshape(n, shape)"
    return [
        text_model(tokens, "y", "m = LayerNormalization(x, s, t) \n y = Mul(m, k)", c),
        text_model(tokens, "y", "m = LayerNormalization(x, s) \n n = Div(m, k) \n y = Sub(d, n)", c),
        text_model("float[n,2,6] x", "y", "m = LayerNormalization<axis=1>(x, r) \n y = Add(m, d)", c),
        text_model(image, "y", instance + "n = Mul(p, m) \n y = Add(n, q)", i),
        text_model("float[2,6,5,4] x", "y", group, i, opset=21),
    ]  # fmt: skip


@graph_pass("fold-norm-affine", atol=1e-5, cases=cases, ops=NORMS, phase="fold", after=("fold-pad",))
def fold_norm_affine(graph: Graph, node: Node) -> int:
    readers = node.outputs[0].outputs
    if not readers or not is_affine(readers[0]):
        raise Skip(f"{STAYS}no constant right behind it can join it")
    return fold(graph, readers[0], NORMS)
