"""A B = dequantize(quantize(A)) dequantize(quantize(B)) with scale 1, where A and B hold only -1, 0 and 1.

The product runs in INT8, exact and without calibration. TensorRT needs symmetric int8; kernels that need
unsigned activations get zero-point 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.ternary import is_ternary
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import (
    FLOATS,
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    dtype_name,
    has,
    insert,
    is_constant,
    producer,
    require_opset,
    variable,
)


@dataclass(frozen=True)
class SignOptions:
    """unsigned: uint8 with zero-point 1 instead of int8 with 0, for activations."""

    unsigned: bool = False


def cases(rng: Rng) -> Models:
    w = {
        "i": rng.choice((-1, 0, 1), (6, 4)).astype(np.int8),
        "one": np.float32(1),
        "zero": np.int8(0),
        "none": np.float32(0),
    }
    weight = "w = DequantizeLinear(i, one, zero) \n s = Sign(x)"
    bits = "t = Transpose<perm=[0,2,1]>(s) \n g = Greater(x, none) \n b = Cast<to=1>(g)"
    linear = text_model("float[2,5,6] x", "y", f"{weight} \n y = MatMul(s, w)", w)
    both = text_model(
        "float[2,5,6] x", "y, z", f"s = Sign(x) \n {bits} \n y = MatMul(b, t) \n z = MatMul(s, t)", w
    )
    return [(linear, SignOptions()), (both, SignOptions()), (both, SignOptions(unsigned=True))]


@graph_pass("quantize-signs", atol=0.0, cases=cases, ops=("MatMul",), options=SignOptions)
def quantize_signs(graph: Graph, node: Node, options: SignOptions) -> int:
    dtypes = {dtype_name(tensor) for tensor in (*node.inputs, *node.outputs)} - {""}
    if len(dtypes) != 1 or not dtypes <= FLOATS:
        raise Skip("the types of the product are unknown")
    dtype = dtypes.pop()
    require_opset(graph, 13 if dtype == "float32" else 19, "QuantizeLinear")
    for tensor in node.inputs:
        if not is_ternary(tensor):
            raise Skip(f"'{tensor.name}' may hold more than -1, 0 and 1")
    makers = [producer(tensor) for tensor in node.inputs]
    if all(maker is not None and maker.op == "DequantizeLinear" for maker in makers):
        raise Skip("both factors are quantized already")
    zero = np.uint8(1) if options.unsigned else np.int8(0)
    for index, (tensor, maker) in enumerate(zip(list(node.inputs), makers, strict=True)):
        if maker is None or maker.op != "DequantizeLinear":
            node.inputs[index] = _pair(graph, tensor, np.dtype(dtype), zero)
    return 1


def _pair(graph: Graph, tensor: Tensor, dtype: np.dtype[np.generic], zero: np.int8 | np.uint8) -> Tensor:
    """The tensor after a Q/DQ pair; all consumers of a tensor share one QuantizeLinear."""
    one = constant(graph, f"{tensor.name}_one", np.ones((), dtype))
    if is_constant(tensor):  # constants are weights, which are signed everywhere
        zero = np.int8(0)
    point = constant(graph, f"{tensor.name}_zero", np.asarray(zero))
    quantizers = [n for n in tensor.outputs if _quantizes_by_one(n, zero)]
    if quantizers:
        stored = quantizers[0].outputs[0]
    else:
        stored = variable(graph, f"{tensor.name}_quantized", zero.dtype, tensor.shape)
        insert(graph, "QuantizeLinear", [tensor, one, point], [stored])
    result = variable(graph, f"{tensor.name}_dequantized", dtype, tensor.shape)
    insert(graph, "DequantizeLinear", [stored, one, point], [result])
    return result


def _quantizes_by_one(node: Node, zero: np.int8 | np.uint8) -> bool:
    """Whether a node quantizes with scale 1 and this zero point, value and type."""
    if node.op != "QuantizeLinear" or not has(node, 2):
        return False
    scale, point = node.inputs[1:3]
    if not is_constant(scale) or not is_constant(point) or point.values.dtype != zero.dtype:
        return False
    return bool(np.all(scale.values == 1) and np.all(point.values == zero))
