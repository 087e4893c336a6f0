"""W (N(x)*g + b) + c = (W g) N(x) + (c + W b): LayerNorm's scale and shift go into the products that read it.

Every reader must be a matrix product with a bias (q, k and v may share one norm). The operator stays, with
scale 1 and no shift; no node is saved, so it is run on request only: before `layernorm-to-rmsnorm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.export.affine.scale_shift import Array
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    float_of,
    has,
    is_constant,
    kept_names,
    require_private,
)


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
    c = {"g": floats(rng, 6) + 2, "b": floats(rng, 6), "w": floats(rng, 6, 8), "v": floats(rng, 6, 4)}
    c |= {"c": floats(rng, 8), "d": floats(rng, 1, 4), "k": floats(rng, 4)}
    norm = "n = LayerNormalization(x, g, b) \n p = MatMul(n, w) \n q = Add(c, p) \n "
    shared = "r = MatMul(n, v) \n z = Add(r, d)"
    plain = "n = LayerNormalization(x, g) \n y = MatMul(n, w)"
    rows = "n = LayerNormalization(x, g, b) \n y = Gemm<alpha=0.5, beta=2.0>(n, v, k)"
    return [
        text_model("float[2,n,6] x", "y", norm + "y = Relu(q)", c),
        text_model("float[2,n,6] x", "q, z", norm + shared, c),
        text_model("float[2,n,6] x", "y", plain, c),
        text_model("float[3,6] x", "y", rows, c),
        text_model("float[3,6] x", "y", rows.replace("<", "<transB=1, "), c | {"v": c["v"].T.copy()}),
    ]


@graph_pass("fold-layernorm-affine", atol=1e-5, cases=cases, ops=("LayerNormalization",))
def fold_layernorm_affine(graph: Graph, node: Node) -> int:
    g = float_of(node.inputs[1], f"the scale of '{node.name}'")
    b = float_of(node.inputs[2], f"the shift of '{node.name}'") if has(node, 2) else np.zeros(g.shape)
    if np.all(g == 1) and not np.any(b):
        return 0
    if g.ndim != 1:
        raise Skip("it normalizes more than the last axis")
    normed = node.outputs[0]
    if normed.name in kept_names(graph):
        raise Skip(f"tensor '{normed.name}' is read from outside the graph")
    places = [_bias_place(graph, reader, normed, shifted=bool(np.any(b))) for reader in normed.outputs]
    for reader, place in zip(list(normed.outputs), places, strict=True):
        w = float_of(reader.inputs[1], "the weight")
        transposed = reader.op == "Gemm" and reader.attrs.get("transB", 0)
        scaled, shift = (w * g, w @ b) if transposed else (w * g[:, None], b @ w)
        reader.inputs[1] = constant(graph, reader.inputs[1].name, scaled, reader.inputs[1].dtype)
        if place is not None and np.any(b):
            _shift(graph, *place, shift)
    node.inputs = [
        node.inputs[0],
        constant(graph, node.inputs[1].name, np.ones(g.shape), node.inputs[1].dtype),
    ]
    return 1


def _bias_place(graph: Graph, reader: Node, x: Tensor, *, shifted: bool) -> tuple[Node, int, float] | None:
    """(node, input, factor) of the bias behind a product, or None where none is needed; raises Skip."""
    if reader.op not in ("MatMul", "Gemm") or reader.inputs[0] is not x or reader.attrs.get("transA", 0):
        raise Skip(f"'{reader.name}' ({reader.op}) reads it too, or other than as rows of a matrix product")
    if float_of(reader.inputs[1], f"the weight of '{reader.name}'").ndim != 2:
        raise Skip("the matrix is not of rank 2")
    if not shifted:
        return None
    if reader.op == "Gemm" and has(reader, 2):
        float_of(reader.inputs[2], f"the bias of '{reader.name}'")
        if not float(reader.attrs.get("beta", 1.0)):
            raise Skip("the bias counts for nothing (beta=0)")
        return reader, 2, float(reader.attrs.get("alpha", 1.0)) / float(reader.attrs.get("beta", 1.0))
    product = reader.outputs[0]
    require_private(graph, product)
    follower = product.outputs[0]
    index = next((i for i in (0, 1) if follower.op == "Add" and is_constant(follower.inputs[i])), None)
    if index is None:
        raise Skip(f"'{reader.name}' has no bias that could take the shift")
    float_of(follower.inputs[index], "the bias")
    return follower, index, float(reader.attrs.get("alpha", 1.0))


def _shift(graph: Graph, node: Node, index: int, factor: float, shift: Array) -> None:
    bias = node.inputs[index]
    values = float_of(bias, "the bias") + factor * shift
    node.inputs[index] = constant(graph, bias.name, values, bias.dtype)
