"""RMSNormalization(x; g, e) = x / sqrt(mean x^2 + e) * g.

For runtimes older than opset 23. Not rewritten in float16: its squares overflow, where the operator computes
in float32. Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, equation 4.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.rebuild import Formula
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, dtype_name


def cases(rng: Rng) -> Models:
    w = {
        "g": np.asarray(rng.standard_normal(8), np.float32),
        "p": np.asarray(rng.standard_normal((4, 8)), np.float32),
    }
    bodies = ("y = RMSNormalization(x, g)", "y = RMSNormalization<axis=1, epsilon=0.01>(x, p)")
    kinds = ("float[2,4,8] x", "float[n,4,8] x")
    return [text_model(kind, "y", body, w, opset=23) for body in bodies for kind in kinds]


@graph_pass("decompose-rmsnorm", atol=1e-5, cases=cases, ops=("RMSNormalization",))
def decompose_rmsnorm(graph: Graph, node: Node) -> int:
    x, scale = node.inputs
    if dtype_name(x) == "float16":
        raise Skip("in float16 its squares would leave the range")
    if x.shape is None:
        raise Skip("the tensor's rank is not known")
    first = int(node.attrs.get("axis", -1)) % len(x.shape)
    axes, write = [axis - len(x.shape) for axis in range(first, len(x.shape))], Formula(graph, node)
    square = write.mean(write("Mul", x, x), axes)
    size = write("Sqrt", write("Add", square, float(node.attrs.get("epsilon", 1e-5))))
    write("Mul", write("Div", x, size), scale, last=True)
    return 1
