"""y = (x - mean) * scale / sqrt(var + eps) + shift = a*x + b, folded into the operator before or after it.

After Conv, ConvTranspose, Gemm, MatMul it is always exact. Before Conv it needs a convolution without
padding, because b does not shift padded zeros. Ioffe and Szegedy, Batch Normalization, 2015.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.core.operators import WEIGHTED
from edgedeploy.export.affine.search import fold
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node


def cases(rng: Rng) -> Models:
    def bn(c: int) -> dict[str, np.ndarray]:
        return {
            "s": floats(rng, c) + 1.5,
            "t": floats(rng, c),
            "m": floats(rng, c),
            "v": rng.uniform(0.5, 2, c).astype(np.float32),
        }

    w = floats(rng, 8, 4, 3, 3)
    image = "float[1,4,9,7] x"
    after = "c = {} \n y = BatchNormalization{}(c, s, t, m, v)"
    before = "c = BatchNormalization(x, s, t, m, v) \n y = {}"
    shared = f"{after.format('Conv<pads=[1,1,1,1]>(x, w)', '')} \n z = Conv(x, w)"
    deconv = "ConvTranspose<strides=[2,2], group=2>(x, w, c0)"
    grouped, odd = "Conv<group=2, pads=[0,1,2,0]>(x, w, c0)", "Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, c0)"
    half, rows, sheet = floats(rng, 8, 2, 3, 3), "float[3,5] x", floats(rng, 5, 6)
    padded = after.format("Conv<pads=[1,1,1,1]>(x, w)", "<epsilon=0.01>")
    return [
        text_model(image, "y", padded, {"w": w, **bn(8)}),
        text_model(
            "float[1,4,h,v0] x", "y", after.format(grouped, ""), {"w": half, "c0": floats(rng, 8), **bn(8)}
        ),
        text_model(image, "y", after.format(deconv, ""), {"w": w[:4, :3], "c0": floats(rng, 6), **bn(6)}),
        text_model(image, "y, z", shared, {"w": w, **bn(8)}),
        text_model(rows, "y", after.format(odd, ""), {"w": sheet.T.copy(), "c0": floats(rng, 1), **bn(6)}),
        text_model(rows, "y", after.format("MatMul(x, w)", ""), {"w": sheet, **bn(6)}),
        text_model(
            "float[2,4,n] x", "y", after.format("Conv(x, w)", ""), {"w": w[..., 0], **bn(8)}, opset=13
        ),
        text_model(image, "y", before.format("Conv<group=2>(c, w)"), {"w": half, **bn(4)}),
        text_model(rows, "y", before.format("Gemm(c, w, c0)"), {"w": sheet, "c0": floats(rng, 6), **bn(5)}),
        text_model(rows, "y", before.format("MatMul(c, w)"), {"w": sheet, **bn(5)}),
    ]


@graph_pass("fold-batchnorm", atol=1e-5, cases=cases, ops=("BatchNormalization",), phase="fold")
def fold_batchnorm(graph: Graph, node: Node) -> int:
    return fold(graph, node, WEIGHTED)
