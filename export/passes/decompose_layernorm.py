"""LayerNormalization(x; g, b, e) = (x - mean x) / sqrt(mean (x - mean x)^2 + e) * g + b.

For runtimes older than opset 17. Not rewritten in float16: the operator sums in float32. Ba, Kiros and
Hinton, 2016, equation 4.
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
        "b": np.asarray(rng.standard_normal(8), np.float32),
        "p": np.asarray(rng.standard_normal((4, 8)), np.float32),
    }
    bodies = (
        "y = LayerNormalization(x, g, b)",
        "y = LayerNormalization<axis=2, epsilon=0.01>(x, g)",
        "y = LayerNormalization<axis=1>(x, p)",
    )
    return [
        text_model(kind, "y", body, w, opset=opset)
        for body in bodies
        for kind, opset in (("float[2,4,8] x", 17), ("float[n,4,8] x", 20))
    ]


@graph_pass("decompose-layernorm", atol=1e-5, cases=cases, ops=("LayerNormalization",))
def decompose_layernorm(graph: Graph, node: Node) -> int:
    x, shape = node.inputs[0], node.inputs[0].shape
    if dtype_name(x) == "float16":
        raise Skip("in float16 its sums would lose precision")
    if len([tensor for tensor in node.outputs if not tensor.is_empty()]) > 1:
        raise Skip("its mean or deviation is read too")
    if shape is None:
        raise Skip("the tensor's rank is not known")
    first = int(node.attrs.get("axis", -1)) % len(shape)
    axes, write = [axis - len(shape) for axis in range(first, len(shape))], Formula(graph, node)
    inputs = [tensor for tensor in node.inputs if not tensor.is_empty()]
    centered = write("Sub", x, write.mean(x, axes))
    variance = write.mean(write("Mul", centered, centered), axes)
    deviation = write("Sqrt", write("Add", variance, float(node.attrs.get("epsilon", 1e-5))))
    result = write("Mul", write("Div", centered, deviation), inputs[1], last=len(inputs) < 3)
    if len(inputs) > 2:
        write("Add", result, inputs[2], last=True)
    return 1
