"""y = x: nodes that change nothing are removed.

Identity, Dropout, Cast to the same type, Reshape and its kin to the same shape, Transpose in order, Pad by 0, Resize
by 1, whole Slices, x*1, x/1, x+0, x-0, x^1, Concat and Sum of one, Clip without bounds, Relu of a Relu.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from edgedeploy.export.graph import Graph, Node, Skip, bypass, dtype_name, has, producer, value_of
from edgedeploy.export.passes.base import graph_pass
from edgedeploy.export.passes.samples import text_model

# Coordinate modes in which output pixel i reads input pixel i when sizes are equal.
_ALIGNED = ("half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners", "pytorch_half_pixel")
_SHAPERS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand")
_OF_ONE = ("Concat", "Sum", "Max", "Min", "Mean")
_NEUTRAL = {"Mul": 1, "Div": 1, "Pow": 1, "Add": 0, "Sub": 0}


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
    image, dynamic = "float[1,3,8,6] x", "float[n,3,h,v] x"
    constants = {
        "one": np.float32(1),
        "ones": np.ones((3, 1, 1), np.float32),
        "none": np.zeros(8, np.int64),
        "same": np.array([1, 3, 8, 6]),
        "scales": np.ones(4, np.float32),
        "from0": np.array([0]),
        "far": np.array([2**40]),
        "axis": np.array([2]),
    }
    bodies = [
        "a = Relu(x) \n b = Identity(a) \n y = Identity(b)",
        "a = Dropout(x) \n y = Relu(a)",
        "a = Tanh(x) \n y = Cast<to=1>(a)",
        "a = Tanh(x) \n b = Mul(a, ones) \n y = Div(b, one)",
        "a = Transpose<perm=[0,1,2,3]>(x) \n b = Pad(a, none) \n y = Concat<axis=1>(b)",
        "a = Relu(x) \n b = Relu(a) \n c = Clip(b) \n y = Slice(c, from0, far, axis)",
    ]
    fixed = [
        "a = Tanh(x) \n b = Reshape(a, same) \n y = Resize<mode='linear'>(b, , scales)".replace("'", '"'),
        "y, z = Split<axis=2, num_outputs=2>(x) \n a = Identity(x) \n b = Relu(a) \n u = Neg(b)",
    ]
    models = [text_model(kind, "y", body, constants) for body in bodies for kind in (image, dynamic)]
    return [*models, text_model(image, "y", fixed[0], constants), text_model(image, "y, z, u", fixed[1], {})]


@graph_pass(
    "drop-identity",
    atol=0.0,
    cases=cases,
    ops=(
        "Identity", "Dropout", "Cast", *_SHAPERS, "Transpose", "Pad", "Resize", "Slice", *_OF_ONE, *_NEUTRAL, "Clip",
        "Relu",
    ),
)  # fmt: skip
def drop_identity(graph: Graph, node: Node) -> int:
    index = next((passed for rule in _RULES for passed in rule(graph, node)), None)
    if index is None:
        return 0
    bypass(graph, node, index)
    return 1


def _always(graph: Graph, node: Node) -> list[int]:
    """Identity; Dropout in inference without a mask; joins of one; Clip without bounds; Relu after Relu."""
    if node.op == "Dropout":
        trains = has(node, 2) and bool(np.any(value_of(node.inputs[2], "training_mode")))
        masked = len(node.outputs) > 1 and (node.outputs[1].outputs or node.outputs[1] in graph.outputs)
        return [] if trains or masked or graph.opset < 7 else [0]
    maker = producer(node.inputs[0])
    nothing = (
        node.op == "Identity"
        or (node.op in _OF_ONE and len(node.inputs) == 1)
        or (node.op == "Clip" and not has(node, 1) and not has(node, 2) and not node.attrs)
        or (node.op == "Relu" and maker is not None and maker.op == "Relu")
    )
    return [0] if nothing else []


def _same_type(_: Graph, node: Node) -> list[int]:
    if node.op != "Cast":
        return []
    source = dtype_name(node.inputs[0])
    return [0] if source and source == dtype_name(node.outputs[0]) else []


def _same_shape(_: Graph, node: Node) -> list[int]:
    x, y = node.inputs[0], node.outputs[0]
    equal = x.shape is not None and x.shape == y.shape and None not in x.shape
    if node.op in _SHAPERS or node.op == "Slice":
        steps = node.op == "Slice" and has(node, 4) and np.any(value_of(node.inputs[4], "steps") != 1)
        whole = node.op == "Slice" and _is_whole(node)
        return [0] if (equal or whole) and not steps else []
    if node.op == "Transpose":
        perm = node.attrs.get("perm")
        return [0] if perm is not None and list(perm) == sorted(perm) else []
    if node.op == "Pad":
        pads = value_of(node.inputs[1], "pads") if has(node, 1) else np.asarray(node.attrs.get("pads", [1]))
        return [0] if not np.any(pads) else []
    if node.op == "Resize" and equal:
        aligned = node.attrs.get("coordinate_transformation_mode", "half_pixel") in _ALIGNED
        return [0] if aligned else []
    return []


def _is_whole(node: Node) -> bool:
    if len(node.inputs) < 3:
        return False
    starts, ends = value_of(node.inputs[1], "starts"), value_of(node.inputs[2], "ends")
    return not np.any(starts) and bool(np.all(ends >= np.iinfo(np.int32).max))


def _neutral(_: Graph, node: Node) -> list[int]:
    """x*1 and its kin, where the constant does not broadcast x to a larger shape."""
    if node.op not in _NEUTRAL:
        return []
    for index in (0, 1) if node.op in ("Mul", "Add") else (0,):
        x, other = node.inputs[index], node.inputs[1 - index]
        try:
            values = value_of(other, "the other operand")
        except Skip:
            continue
        wider = x.shape is None or values.ndim > len(x.shape)
        aligned = () if wider else zip(reversed(values.shape), reversed(x.shape), strict=False)
        grows = (wider and values.ndim > 0) or any(size not in (1, dim) for size, dim in aligned)
        same_type = node.op != "Pow" or dtype_name(other) == dtype_name(x)
        if not grows and same_type and np.all(values == _NEUTRAL[node.op]):
            return [index]
    return []


_RULES: tuple[Callable[[Graph, Node], list[int]], ...] = (_always, _same_type, _same_shape, _neutral)
