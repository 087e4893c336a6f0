"""x S = x dequantize(S), S a constant matrix of -1, 0 and 1, stored in int8 with scale 1.

The inverse of pack-binary-weights, for engines with integer matrix products. Nodes that compute S from
constants (a table look-up of bits, a cast) are run once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.ternary import ternary_values
from edgedeploy.export.passes.pack_binary_weights import TABLE
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.run import Evaluator, NotRunnable
from edgedeploy.graphs.surgeon import (
    FLOATS,
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    dtype_name,
    insert,
    is_constant,
    isolated,
    producer,
    require_opset,
    variable,
)

LONGEST = 32  # operators between the constants and the weight


def cases(rng: Rng) -> Models:
    w: dict[str, NDArray[Any]] = {
        "bits": rng.integers(0, 256, (24, 2)),
        "table": TABLE,
        "shape": np.array([24, 16]),
        "s": rng.choice((-1.0, 0.0, 1.0), (16, 24)).astype(np.float32),
        "i": rng.choice((-1, 1), (16, 24)).astype(np.int8),
    }
    looked_up = "a = Gather(table, bits) \n b = Reshape(a, shape) \n w = Transpose<perm=[1,0]>(b)"
    return [
        text_model("float[3,16] x", "y", f"{looked_up} \n y = MatMul(x, w)", w),
        text_model("float[2,n,16] x", "y", "y = MatMul(x, s)", w),
        text_model("float[3,16] x", "y", "f = Cast<to=1>(i) \n a = MatMul(x, f) \n y = Relu(a)", w),
    ]


@graph_pass("expand-binary-weights", atol=1e-6, cases=cases, ops=("MatMul",))
def expand_binary_weights(graph: Graph, node: Node) -> int:
    weight = node.inputs[1]
    maker = producer(weight)
    if maker is not None and maker.op == "DequantizeLinear":
        raise Skip("the weight is quantized already")
    kind = dtype_name(node.outputs[0]) or dtype_name(node.inputs[0])
    if kind not in FLOATS:
        raise Skip(f"the product is {kind or 'of an unknown type'}")
    require_opset(graph, 13 if kind == "float32" else 19, "DequantizeLinear")
    values = _computed(graph, weight, [LONGEST])
    if not ternary_values(values):
        raise Skip("the weight holds more than -1, 0 and 1")
    stored = constant(graph, f"{weight.name}_int8", values, np.int8)
    one = constant(graph, f"{weight.name}_one", np.ones(()), np.dtype(kind))
    zero = constant(graph, f"{weight.name}_zero", np.zeros(()), np.int8)
    result = variable(graph, f"{weight.name}_dequantized", np.dtype(kind), values.shape)
    insert(graph, "DequantizeLinear", [stored, one, zero], [result])
    node.inputs[1] = result
    return 1


def _computed(graph: Graph, tensor: Tensor, left: list[int]) -> NDArray[Any]:
    """The value of a tensor that depends on constants alone; raises Skip for others."""
    if is_constant(tensor):
        return np.asarray(tensor.values)
    maker = producer(tensor)
    left[0] -= 1
    if maker is None or left[0] < 0 or len(maker.outputs) != 1:
        raise Skip("the weight is not computed from a few constants")
    alone = maker.copy(
        inputs=[
            entry if entry.is_empty() else constant(graph, entry.name, _computed(graph, entry, left))
            for entry in maker.inputs
        ],
        outputs=[variable(graph, tensor.name, tensor.dtype)],
    )
    try:
        (value,) = Evaluator(isolated(graph, alone))({}).values()
    except NotRunnable as error:
        raise Skip(f"{maker.op} before the weight cannot be run: {error}") from error
    return np.asarray(value)
