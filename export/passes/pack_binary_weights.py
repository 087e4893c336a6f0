"""x W = (x S) diag(s), where output j has weights +s_j or -s_j: one bit per weight, one scale per output.

The signs S are stored eight to a byte and looked up in a table of 256 rows by standard operators, so that any
runtime expands them once, when it loads the file. Matrices are padded with unused rows up to the size from
which fold-constants does not fold the look-up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.passes.fold_constants import SMALL
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    dtype_name,
    float_of,
    has,
    insert,
    is_constant,
    variable,
)

LEAST_BYTES = SMALL // 8  # of packed bits: their int64 indices then exceed the limit of fold-constants
TABLE = (2 * (np.arange(256)[:, None] >> np.arange(7, -1, -1) & 1) - 1).astype(np.float32)


def cases(rng: Rng) -> Models:
    def signs(*shape: int) -> NDArray[np.float32]:
        return rng.choice((-1.0, 1.0), shape).astype(np.float32)

    scales = np.exp(rng.standard_normal(72)).astype(np.float32)
    w = {"w": signs(256, 72) * scales, "r": signs(72, 256) * scales[:, None], "b": scales}
    return [
        text_model("float[2,5,256] x", "y", "y = MatMul(x, w)", w),
        text_model("float[n,256] x", "y", "y = Gemm(x, w)", w),
        text_model("float[4,256] x", "y", "a = Gemm<transB=1>(x, r, b) \n y = Relu(a)", w),
    ]


@graph_pass("pack-binary-weights", atol=1e-5, cases=cases, ops=("MatMul", "Gemm"), phase="pack")
def pack_binary_weights(graph: Graph, node: Node) -> int:
    weight, is_gemm = node.inputs[1], node.op == "Gemm"
    values = float_of(weight, "the weight")
    if values.ndim != 2 or dtype_name(weight) != "float32":
        raise Skip("the weight is no float32 matrix")
    if is_gemm and (
        node.attrs.get("transA", 0) or any(node.attrs.get(k, 1.0) != 1 for k in ("alpha", "beta"))
    ):
        raise Skip("the Gemm transposes its input or has factors")
    rows = values if is_gemm and node.attrs.get("transB", 0) else values.T  # (out, in)
    scales = np.abs(rows).max(axis=1, initial=0.0)
    if not np.array_equal(np.abs(rows), np.broadcast_to(scales[:, None], rows.shape)) or not scales.all():
        raise Skip("the weights of some output take more than the values +s and -s")
    if rows.shape[1] % 8:
        raise Skip(f"{rows.shape[1]} inputs are no multiple of 8")
    if rows.size * 4 < 2 * (LEAST_BYTES + TABLE.nbytes):
        raise Skip(f"packing {rows.size} weights gains too little")
    signs, y = _looked_up(graph, rows > 0, weight.name), node.outputs[0]
    product = variable(graph, f"{y.name}_product", y.dtype, y.shape)
    scaled = y
    node.outputs.clear()
    if is_gemm and has(node, 2):
        scaled = variable(graph, f"{y.name}_scaled", y.dtype, y.shape)
        insert(graph, "Add", [scaled, node.inputs[2]], [y])
    insert(graph, "MatMul", [node.inputs[0], signs], [product])
    factors = constant(graph, f"{weight.name}_scale", scales, np.float32)
    insert(graph, "Mul", [product, factors], [scaled])
    node.inputs.clear()
    return 1


def _looked_up(graph: Graph, ones: NDArray[np.bool_], name: str) -> Tensor:
    """The matrix (in, out) of -1 and 1, computed from the bits of `ones` (out, in)."""
    outputs, inputs = ones.shape
    bits = np.packbits(ones, axis=1)
    idle = max(0, LEAST_BYTES // bits.shape[1] + 1 - outputs)
    packed = constant(graph, f"{name}_bits", np.pad(bits, ((0, idle), (0, 0))))
    table = next((t for t in graph.tensors().values() if _is_table(t)), None)
    table = constant(graph, "table_of_bits", TABLE) if table is None else table

    def step(op: str, reads: list[Tensor], **attributes: Any) -> Tensor:
        made = variable(graph, f"{name}_{op.lower()}")
        insert(graph, op, reads, [made], **attributes)
        return made

    at = step("Cast", [packed], to=int(onnx.TensorProto.INT64))
    looked_up = step("Gather", [table, at], axis=0)
    rows = step("Reshape", [looked_up, constant(graph, f"{name}_shape", np.array([-1, inputs]))])
    if idle:
        ends = [
            constant(graph, f"{name}_{key}", np.array([at])) for key, at in (("from", 0), ("to", outputs))
        ]
        rows = step("Slice", [rows, *ends, constant(graph, f"{name}_axis", np.array([0]))])
    return step("Transpose", [rows], perm=[1, 0])


def _is_table(tensor: Tensor) -> bool:
    return is_constant(tensor) and tensor.shape == TABLE.shape and np.array_equal(tensor.values, TABLE)
