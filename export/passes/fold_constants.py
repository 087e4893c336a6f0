"""f(constants) = constant: what does not depend on the input is computed once, by ONNX Runtime.

Shapes are inferred first, and shapes and parts of shapes that are known become constants too. Results that
are larger than what they are made of (an expanded mask) stay computed; DequantizeLinear stays, for it says
where INT8 is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.export.evaluate import Evaluator, NotRunnable
from edgedeploy.export.graph import (
    RANDOM,
    Graph,
    Node,
    has_bodies,
    is_constant,
    is_standard,
    isolated,
    kept_names,
    make_constant,
    producer,
    tidy,
)
from edgedeploy.export.passes.base import graph_pass
from edgedeploy.export.passes.samples import floats, text_model
from edgedeploy.export.shapes import infer, is_static

SMALL = 1 << 16  # bytes that a result may always have
_KEPT = RANDOM | {"QuantizeLinear", "DequantizeLinear", "Dropout"}
_GROWING = frozenset(
    {"ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "Resize", "Pad", "EyeLike", "MatMul"}
)


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
    w = {"w": floats(rng, 3, 1, 1), "i": np.array(1), "two": np.array([2]), "axis": np.array([0])}
    flat = "s = Shape(x) \n n = Gather(s, i) \n c = Unsqueeze(n, axis) \n r = Concat<axis=0>(two, c) \n "
    return [
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


@graph_pass("fold-constants", atol=1e-6, cases=cases)
def fold_constants(graph: Graph) -> int:
    total = 0
    while True:
        infer(graph)
        kept = kept_names(graph)
        hits = sum(_fold(graph, node, kept) for node in list(graph.nodes))
        if not hits:
            return total
        total += hits
        tidy(graph)


def _fold(graph: Graph, node: Node, kept: set[str]) -> int:
    outputs = [tensor for tensor in node.outputs if not tensor.is_empty()]
    # A graph output must stay the result of a node: runtimes differ on initializers as outputs.
    if not outputs or not is_standard(node) or node.op in _KEPT or any(o.name in kept for o in outputs):
        return 0
    values = _known_shape(node)
    if values is not None:
        make_constant(outputs[0], values)
        return 1
    if has_bodies(node) or not all(is_constant(t) or t.is_empty() for t in node.inputs):
        return 0
    room = max(SMALL, sum(tensor.values.nbytes for tensor in node.inputs if not tensor.is_empty()))
    sizes = [int(np.prod(tensor.shape)) if is_static(tensor.shape) else None for tensor in outputs]
    if node.op in _GROWING and any(size is None or size * 4 > room for size in sizes):
        return 0
    try:
        results = Evaluator(isolated(graph, node))({})
    except NotRunnable:
        return 0
    arrays = [results[tensor.name] for tensor in outputs]
    is_plain = all(hasattr(array, "dtype") and array.dtype.kind != "O" for array in arrays)
    if not is_plain or (node.op != "Constant" and sum(array.nbytes for array in arrays) > room):
        return 0
    for tensor, array in zip(outputs, arrays, strict=True):
        make_constant(tensor, array)
    return 1


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


def _sizes(node: Node) -> list[Any] | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    return list(shape)[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
