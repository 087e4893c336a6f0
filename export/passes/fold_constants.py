"""f(constants) = constant: ONNX Runtime computes once what does not depend on the graph input.

Shapes are inferred first; known shapes and elements of shapes become constants too. Not rewritten: results
larger than their inputs (an expanded mask), except bounded results of convolutions and matrix products, which
cost more to compute than to read; and DequantizeLinear, which marks INT8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.operators import WEIGHTED
from edgedeploy.export.graph_pass import EVERY, graph_pass
from edgedeploy.export.match.shapes import infer, is_static
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.run import Evaluator, NotRunnable
from edgedeploy.graphs.surgeon import (
    RANDOM,
    Graph,
    Node,
    Tensor,
    has_bodies,
    is_constant,
    isolated,
    kept_names,
    make_constant,
    producer,
)

SMALL = 1 << 16  # bytes of a result that is always stored
MOST = 1 << 24  # elements of the largest result that is computed
WORTH = 1 << 24  # bytes of the largest stored result of a convolution or matrix product
_KEPT = RANDOM | {"QuantizeLinear", "DequantizeLinear", "Dropout"}
_GROWING = frozenset(
    {"ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "Resize", "Pad", "EyeLike", "MatMul"}
)


def cases(rng: Rng) -> Models:
    w = {"w": floats(rng, 3, 1, 1), "i": np.array(1), "two": np.array([2]), "axis": np.array([0])}
    flat = "s = Shape(x) \n n = Gather(s, i) \n c = Unsqueeze(n, axis) \n r = Concat<axis=0>(two, c) \n "
    # A kernel per pixel, computed by a convolution of fewer maps: the result is larger than its inputs.
    maps = {"maps": floats(rng, 1, 2, 96, 96), "k": floats(rng, 3, 2, 1, 1)}
    return [
        text_model("float[1,3,96,96] x", "y", "a = Conv(maps, k) \n y = Mul(x, a)", maps),
        text_model("float[1,3,8,6] x", "y", "a = Exp(w) \n b = Sqrt(a) \n y = Mul(x, b)", w),
        text_model("float[2,3,h,v] x", "y", "a = Constant<value_float=2.0>() \n y = Mul(x, a)", w),
        text_model("float[1,3,8,6] x", "y", "s = Shape(x) \n r = Reshape(x, s) \n y = Relu(r)", w),
        text_model("float[2,3] x", "y", f"{flat} y = Reshape(x, r)", w),
        text_model(
            "float[1,3,h,v] x", "y", "s = Shape<start=1, end=2>(x) \n f = Cast<to=1>(s) \n y = Mul(x, f)", w
        ),
        text_model(
            "float[1,3,h,v] x",
            "y",
            "s = Shape(x) \n n = Gather(s, i) \n f = Cast<to=1>(n) \n y = Add(x, f)",
            w,
        ),
    ]


@graph_pass(
    "fold-constants", atol=1e-6, cases=cases, ops=EVERY, phase="clean", after=("drop-dead",), prepare=infer
)
def fold_constants(graph: Graph, node: Node) -> int:
    outputs = [tensor for tensor in node.outputs if not tensor.is_empty()]
    if not outputs or node.op in _KEPT:
        return 0
    values = _values(graph, node, outputs)
    # A graph output must stay the result of a node: runtimes differ on initializers as outputs.
    if values is None or not kept_names(graph).isdisjoint(tensor.name for tensor in outputs):
        return 0
    for tensor, array in zip(outputs, values, strict=True):
        make_constant(tensor, array)
    return 1


def _values(graph: Graph, node: Node, outputs: list[Tensor]) -> list[NDArray[Any]] | None:
    """The outputs of a node whose inputs are constants, or None where unknown or too large to store."""
    shape = _known_shape(node)
    if shape is not None:
        return [shape]
    given = [tensor for tensor in node.inputs if is_constant(tensor)]
    if has_bodies(node) or len(given) < sum(not tensor.is_empty() for tensor in node.inputs):
        return None
    written = node.attrs.get("value") if node.op == "Constant" else None
    if written is not None and not isinstance(
        written.dtype, int
    ):  # types that numpy lacks go through the evaluator
        return [np.asarray(written.values)]
    room = max(WORTH if node.op in WEIGHTED else SMALL, sum(tensor.values.nbytes for tensor in given))
    sizes = [math.prod(tensor.shape) if is_static(tensor.shape) else None for tensor in outputs]
    if any(size is not None and size > max(room, MOST) for size in sizes):
        return None
    if node.op in _GROWING and any(size is None or size * 4 > room for size in sizes):
        return None
    try:
        results = Evaluator(isolated(graph, node))({})
    except NotRunnable:
        return None
    arrays = [results[tensor.name] for tensor in outputs]
    is_plain = all(hasattr(array, "dtype") and array.dtype.kind != "O" for array in arrays)
    if not is_plain or (node.op != "Constant" and sum(array.nbytes for array in arrays) > room):
        return None
    return arrays


def _known_shape(node: Node) -> NDArray[np.int64] | None:
    """The value of a Shape, Size, or Gather from a Shape, where the sizes that it reads are known."""
    if node.op in ("Shape", "Size"):
        sizes = _sizes(node)
        if sizes is None or not is_static(sizes):
            return None
        return np.array(sizes if node.op == "Shape" else np.prod(sizes), np.int64)
    source = producer(node.inputs[0]) if node.inputs else None
    if node.op != "Gather" or source is None or source.op != "Shape" or not is_constant(node.inputs[1]):
        return None
    sizes, picked = _sizes(source), np.asarray(node.inputs[1].values)
    if sizes is None or any(not -len(sizes) <= place < len(sizes) for place in picked.ravel()):
        return None
    chosen = [sizes[place] for place in picked.ravel()]
    return np.array(chosen, np.int64).reshape(picked.shape) if is_static(chosen) else None


def _sizes(node: Node) -> list[int | str | None] | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    return list(shape)[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
