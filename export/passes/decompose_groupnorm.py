"""GroupNormalization(x; g, b) = Reshape(InstanceNormalization(Reshape(x to N, groups, -1))) * g + b.

For runtimes without GroupNormalization (opset 21 has g and b per channel; opset 18, deprecated, per group).
Wu and He, Group Normalization, ECCV 2018, equation 7.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.rebuild import Formula
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, constant, dtype_name, float_of


def cases(rng: Rng) -> Models:
    w = {
        "g": np.asarray(rng.standard_normal(6), np.float32),
        "b": np.asarray(rng.standard_normal(6), np.float32),
    }
    # Shape inference does not know GroupNormalization: Cast and Reshape give type and shape.
    body = "a = GroupNormalization<num_groups=3, epsilon=0.01>(x, g, b) \n c = Cast<to=1>(a) \n "
    body += "s = Shape(x) \n y = Reshape(c, s)"
    kinds = ("float[2,6,4,5] x", "float[n,6,h,v] x")
    return [text_model(kind, "y", body, w, opset=21) for kind in kinds]


@graph_pass("decompose-groupnorm", atol=1e-5, cases=cases, ops=("GroupNormalization",))
def decompose_groupnorm(graph: Graph, node: Node) -> int:
    x, scale, bias = node.inputs
    if dtype_name(x) == "float16":
        raise Skip("in float16 its sums would lose precision")
    rank = len(x.shape or ())
    channels, groups = x.shape[1] if x.shape and rank >= 3 else None, int(node.attrs["num_groups"])
    if not isinstance(channels, int):
        raise Skip("the tensor's rank or channels are not known")
    factors = [float_of(scale, "the scale"), float_of(bias, "the bias")]
    if any(channels % len(values) for values in factors):
        raise Skip("the scale is neither per channel nor per group")
    column = (channels, *[1] * (rank - 2))
    g, b = (
        constant(graph, tensor.name, np.repeat(values, channels // len(values)).reshape(column), x.dtype)
        for tensor, values in zip((scale, bias), factors, strict=True)
    )
    write, ones = Formula(graph, node), np.ones(groups)
    name = node.outputs[0].name
    apart = constant(graph, f"{name}_apart", np.array([0, groups, -1], np.int64))
    whole = write("Shape", x)
    unit = [
        constant(graph, f"{name}_{key}", ones * value, x.dtype) for key, value in (("one", 1), ("zero", 0))
    ]
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    normal = write("InstanceNormalization", write("Reshape", x, apart), *unit, epsilon=epsilon)
    write("Add", write("Mul", write("Reshape", normal, whole), g), b, last=True)
    return 1
