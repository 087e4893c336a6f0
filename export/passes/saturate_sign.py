"""quantize(sign(x), 1, z) = clip(quantize(x, TINY, z), z - 1, z + 1): QuantizeLinear saturates.

Runtimes without a fast Sign have a fast QuantizeLinear, and fuse it into the product before it. Values closer
to zero than TINY / 2 become 0: float32 holds such values, sums and norms of networks do not reach them.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    constant,
    dtype_name,
    insert,
    is_constant,
    producer,
    variable,
)

# Far above the smallest float32, because runtimes multiply scales of neighboring operators.
TINY = 2.0**-64


def cases(rng: Rng) -> Models:
    w = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "mid": np.uint8(1),
        "shift": np.float32(rng.standard_normal()),
    }
    before = "a = Add(x, shift) \n b = Relu(a) \n c = Sub(b, x) \n s = Sign(c)"
    return [
        text_model(
            "float[2,5,6] x",
            "y",
            f"{before} \n q = QuantizeLinear(s, one, {z}) \n y = DequantizeLinear(q, one, {z})",
            w,
        )
        for z in ("zero", "mid")
    ]


@graph_pass("saturate-sign", atol=0.0, cases=cases, ops=("QuantizeLinear",))
def saturate_sign(graph: Graph, node: Node) -> int:
    sign = producer(node.inputs[0])
    if sign is None or sign.op != "Sign":
        raise Skip("it quantizes no Sign")
    if dtype_name(node.inputs[0]) != "float32":
        raise Skip("only float32 reaches down to the scale")
    scale = node.inputs[1]
    if not is_constant(scale) or np.asarray(scale.values).ndim or scale.values != 1:
        raise Skip("its scale is not 1")
    if len(node.inputs) < 3 or not is_constant(node.inputs[2]):
        raise Skip("its zero-point is not a constant")
    point = np.asarray(node.inputs[2].values)
    limits = np.iinfo(point.dtype)
    if point.ndim or not limits.min < point < limits.max or point.itemsize > 1:
        raise Skip("its zero-point leaves no room for -1 and 1")
    result = node.outputs[0]
    wide = variable(graph, f"{result.name}_wide", result.dtype, result.shape)
    node.inputs[0], node.inputs[1] = (
        sign.inputs[0],
        constant(graph, f"{result.name}_tiny", np.asarray(TINY), np.float32),
    )
    node.outputs[0] = wide
    ends = [
        constant(graph, f"{result.name}_{key}", np.asarray(int(point) + step), point.dtype)
        for key, step in (("least", -1), ("most", 1))
    ]
    insert(graph, "Clip", [wide, *ends], [result])
    return 1
