"""x*c, x/c, x+c, x-c, c-x = a*x + b per channel, folded into the operator before or after it.

The constant is a scalar or holds one value per channel of the operator. Before a padded convolution only
factors fold. This is `propagate-affine` with reach 1 and a pass of its own, because the Add behind a MatMul
of rank 2 becomes the bias of a Gemm here, while `propagate-affine` leaves the bias of a matrix product
alone.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.core.operators import WEIGHTED
from edgedeploy.export.affine.reader import ARITHMETIC
from edgedeploy.export.affine.search import fold
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node


def cases(rng: Rng) -> Models:
    image, rows = "float[1,4,h,v] x", "float[3,5] x"
    weights = {
        "w": floats(rng, 8, 4, 3, 3),
        "b": floats(rng, 8),
        "c": floats(rng, 8, 1, 1) + 2,
        "k": np.float32(-3),
    }
    inner = {"w": floats(rng, 8, 4, 3, 3), "p": floats(rng, 1, 4, 1, 1), "q": floats(rng, 4, 1, 1)}
    sheet = {"w": floats(rng, 5, 8), "c": floats(rng, 8), "r": floats(rng, 1, 5)}
    deep = {"w": floats(rng, 4, 4, 3, 3), "c": floats(rng, 8, 1, 1) + 2, "p": floats(rng, 1, 4, 1, 1)}
    return [
        text_model(
            image, "y", "a = Conv<pads=[1,1,1,1]>(x, w, b) \n m = Mul(a, c) \n y = Add(m, k)", weights
        ),
        text_model(image, "y", "a = Conv(x, w) \n m = Div(a, c) \n s = Sub(m, c) \n y = Sub(k, s)", weights),
        text_model(image, "y", "a = Mul(p, x) \n y = Conv<pads=[2,1,0,1]>(a, w)", inner),
        text_model(image, "y", "a = Sub(x, q) \n m = Mul(a, p) \n y = Conv<strides=[2,2]>(m, w)", inner),
        text_model(image, "y", "a = ConvTranspose<group=2>(x, w) \n y = Mul(a, c)", deep),
        text_model(image, "y", "a = Mul(x, p) \n y = ConvTranspose<group=2, pads=[1,0,0,1]>(a, w)", deep),
        text_model(rows, "y", "a = MatMul(x, w) \n y = Add(c, a)", sheet),
        text_model(
            rows, "y", "a = Gemm<alpha=2.0>(x, w, c) \n m = Mul(a, c) \n y = Relu(m)", sheet, opset=13
        ),
        text_model(rows, "y", "a = Add(x, r) \n m = Mul(a, r) \n y = Gemm<alpha=0.5>(m, w)", sheet),
    ]


@graph_pass("fold-mul-add", atol=1e-5, cases=cases, ops=ARITHMETIC, phase="fold", after=("fold-batchnorm",))
def fold_mul_add(graph: Graph, node: Node) -> int:
    return fold(graph, node, WEIGHTED)
