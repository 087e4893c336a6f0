"""float32 tensors become float16, the graph's own inputs and outputs excepted, with Casts where types meet.

The result is strongly typed: no builder flag decides a precision. Kept in float32: normalizations, Softmax,
exponentials, the nodes from a square to its root, interpolation and its sampling coordinates, and any node
with a constant outside the range of float16 (beyond 65504, or a small epsilon that would become 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx.defs import SchemaError, get_schema

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.keep_float32 import fits_float16, sampling_coordinates, square_to_root
from edgedeploy.export.match.shapes import infer
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Tensor,
    constant,
    dtype_name,
    has_bodies,
    insert,
    is_constant,
    is_standard,
    kept_names,
    variable,
)

HALF = "tensor(float16)"
# ONNX Runtime on a CPU computes float16 operators in float32: the proof sees the rounding of weights and
# tensors, but no overflow inside an operator. So operators that tend to overflow are listed by name.
# Cast is listed because Casts of integers carry sizes, whose products overflow float16.
ISLANDS = (
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
    "LpNormalization", "MeanVarianceNormalization", "Softmax", "LogSoftmax", "Exp", "Log", "Pow",
    "Reciprocal", "CumSum", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceProd", "Resize", "Upsample", "GridSample", "Range", "Cast", "CastLike",
    "NonMaxSuppression", "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip


@dataclass(frozen=True)
class Fp16Options:
    """keep_ops: operators to leave in float32; keep_nodes: names of nodes to leave in float32."""

    keep_ops: tuple[str, ...] = ISLANDS
    keep_nodes: tuple[str, ...] = ()


def cases(rng: Rng) -> Models:
    c = {
        "w": floats(rng, 8, 3, 3, 3),
        "g": floats(rng, 8, 4, 3, 3),
        "huge": np.float32(1e9),
        "eps": np.float32(1e-12),
        "axes": np.array([1]),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    rms = "q = Mul(a, a) \n m = ReduceMean(q, axes) \n e = Add(m, eps) \n s = Sqrt(e) \n y = Div(a, s)"
    branches = ", ".join(
        f"{name}_branch = {name}_ () => (float[] p) {{ p = {op}(a) }}"
        for name, op in (("then", "Tanh"), ("else", "Neg"))
    )
    resize = 'Resize<mode="linear">(a, , scales)'
    return [
        text_model("float[1,3,h,v] x", "y", "a = Conv(x, w) \n b = Relu(a) \n y = Conv<group=2>(b, g)", c),
        text_model("float[1,3,9,8] x", "y, z", "z = Conv(x, w) \n y = Relu(z)", c),
        text_model("float[1,3,9,8] x", "y", f"a = Conv(x, w) \n {rms}", c),
        text_model("float[1,3,9,8] x", "y", f"a = Conv(x, w) \n b = {resize} \n y = Sigmoid(b)", c),
        text_model(
            "float[1,3,9,8] x", "y", "a = Conv(x, w) \n b = Min(a, huge) \n y = Softmax<axis=1>(b)", c
        ),
        text_model("float[1,3,9,8] x, float[1,4,5,2] p", "y", "a = GridSample(x, p) \n y = Conv(a, w)", c),
        text_model("float[1,3,h,v] x, bool flag", "y", f"a = Conv(x, w) \n y = If(flag) <{branches}>", c),
    ]


@graph_pass("to-fp16", atol=1e-2, cases=cases, options=Fp16Options)
def to_fp16(graph: Graph, options: Fp16Options) -> int:
    infer(graph)
    kept = kept_names(graph) | {tensor.name for tensor in graph.inputs}
    halves: dict[str, Tensor] = {}  # float32 tensor -> its float16 twin
    keep_float32 = square_to_root(graph) | sampling_coordinates(graph)
    hits = 0
    for node in list(graph.nodes):
        wanted = node.name not in options.keep_nodes and node.op not in options.keep_ops
        indices = _convertible(node, graph.opset) if wanted and id(node) not in keep_float32 else None
        if indices is None:
            continue
        inputs, outputs = indices
        for index in inputs:
            node.inputs[index] = _half(graph, node.inputs[index], halves)
        for index in outputs:
            full = node.outputs[index]
            half = variable(graph, f"{full.name}_fp16", np.dtype(np.float16), full.shape)
            node.outputs[index] = half
            halves[full.name] = half
            # Consumers that stay in float32 read this Cast; without consumers it is removed.
            insert(graph, "Cast", [half], [full], to=int(onnx.TensorProto.FLOAT))
        hits += 1
    _require_outputs(graph, kept)
    return hits


def _half(graph: Graph, tensor: Tensor, halves: dict[str, Tensor]) -> Tensor:
    twin = halves.get(tensor.name)
    if twin is None:
        name = f"{tensor.name}_fp16"
        if is_constant(tensor):
            twin = constant(graph, name, np.asarray(tensor.values), np.float16)
        else:
            twin = variable(graph, name, np.dtype(np.float16), tensor.shape)
            insert(graph, "Cast", [tensor], [twin], to=int(onnx.TensorProto.FLOAT16))
        halves[tensor.name] = twin
    return twin


def _convertible(node: Node, opset: int) -> tuple[list[int], list[int]] | None:
    """Indices of float32 inputs and outputs that may be float16 by the operator's schema, or None."""
    if not is_standard(node) or has_bodies(node):
        return None
    try:
        schema = get_schema(node.op, opset)
    except SchemaError:
        return None
    types = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}

    def indices(tensors: Sequence[Tensor], formals: Sequence[object]) -> list[int] | None:
        found = []
        for index, tensor in enumerate(tensors):
            if tensor.is_empty() or dtype_name(tensor) != "float32":
                if not tensor.is_empty() and not dtype_name(tensor):
                    return None
                continue
            formal = formals[min(index, len(formals) - 1)]
            if HALF in types.get(formal.type_str, ()):  # type: ignore[attr-defined]
                found.append(index)
        return found

    inputs, outputs = indices(node.inputs, schema.inputs), indices(node.outputs, schema.outputs)
    if inputs is None or outputs is None or not inputs or "dtype" in node.attrs:
        return None
    constants = [tensor for tensor in (node.inputs[index] for index in inputs) if is_constant(tensor)]
    return (inputs, outputs) if all(fits_float16(tensor.values) for tensor in constants) else None


def _require_outputs(graph: Graph, kept: set[str]) -> None:
    """Raise RuntimeError where a graph output has no producer."""
    made = {tensor.name for node in graph.nodes for tensor in node.outputs} | {t.name for t in graph.inputs}
    missing = {tensor.name for tensor in graph.outputs} & kept - made
    if missing:
        raise RuntimeError(f"outputs lost: {', '.join(sorted(missing))}")
