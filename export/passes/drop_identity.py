"""Remove nodes that compute y = x.

Identity, Dropout, Cast to the same type, Reshape and its kin to the same shape, Transpose in order, Pad by 0,
Resize by 1, whole Slices, Concat and Sum of one, Clip without bounds, Relu of a Relu.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, bypass, dtype_name, has, producer, value_of

# Coordinate modes in which output pixel i reads input pixel i when sizes are equal.
_ALIGNED = ("half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners", "pytorch_half_pixel")
_SHAPERS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand")
_OF_ONE = ("Concat", "Sum", "Max", "Min", "Mean")
_OTHERS = ("Identity", "Dropout", "Cast", "Transpose", "Pad", "Resize", "Slice", "Clip", "Relu")


def cases(_: Rng) -> Models:
    image, dynamic = "float[1,3,8,6] x", "float[n,3,h,v] x"
    constants = {
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
        "a = Transpose<perm=[0,1,2,3]>(x) \n b = Pad(a, none) \n y = Concat<axis=1>(b)",
        "a = Relu(x) \n b = Relu(a) \n c = Clip(b) \n y = Slice(c, from0, far, axis)",
    ]
    resized = 'a = Tanh(x) \n b = Reshape(a, same) \n y = Resize<mode="linear">(b, , scales)'
    split = "y, z = Split<axis=2, num_outputs=2>(x) \n a = Identity(x) \n b = Relu(a) \n u = Neg(b)"
    models = [text_model(kind, "y", body, constants) for body in bodies for kind in (image, dynamic)]
    return [*models, text_model(image, "y", resized, constants), text_model(image, "y, z, u", split, {})]


@graph_pass(
    "drop-identity",
    atol=0.0,
    cases=cases,
    ops=(*_OTHERS, *_SHAPERS, *_OF_ONE),
    phase="clean",
    after=("fold-constants",),
)
def drop_identity(graph: Graph, node: Node) -> int:
    if not any(rule(graph, node) for rule in _RULES):
        return 0
    bypass(graph, node)
    return 1


def _always(graph: Graph, node: Node) -> bool:
    """Identity; Dropout in inference without a mask; Concat and kin of one; unbounded Clip; Relu of Relu."""
    if node.op == "Dropout":
        trains = has(node, 2) and bool(np.any(value_of(node.inputs[2], "training_mode")))
        masked = len(node.outputs) > 1 and (node.outputs[1].outputs or node.outputs[1] in graph.outputs)
        return not trains and not masked and graph.opset >= 7
    maker = producer(node.inputs[0])
    return (
        node.op == "Identity"
        or (node.op in _OF_ONE and len(node.inputs) == 1)
        or (node.op == "Clip" and not has(node, 1) and not has(node, 2) and not node.attrs)
        or (node.op == "Relu" and maker is not None and maker.op == "Relu")
    )


def _same_type(_: Graph, node: Node) -> bool:
    if node.op != "Cast":
        return False
    source = dtype_name(node.inputs[0])
    return bool(source) and source == dtype_name(node.outputs[0])


def _same_shape(_: Graph, node: Node) -> bool:
    x, y = node.inputs[0], node.outputs[0]
    equal = x.shape is not None and x.shape == y.shape and None not in x.shape
    if node.op in _SHAPERS or node.op == "Slice":
        steps = node.op == "Slice" and has(node, 4) and np.any(value_of(node.inputs[4], "steps") != 1)
        whole = node.op == "Slice" and _is_whole(node)
        return (equal or whole) and not steps
    if node.op == "Transpose":
        perm = node.attrs.get("perm")
        return perm is not None and list(perm) == sorted(perm)
    if node.op == "Pad":
        pads = value_of(node.inputs[1], "pads") if has(node, 1) else np.asarray(node.attrs.get("pads", [1]))
        return not np.any(pads)
    mode = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    return node.op == "Resize" and equal and mode in _ALIGNED


def _is_whole(node: Node) -> bool:
    if len(node.inputs) < 3:
        return False
    starts, ends = value_of(node.inputs[1], "starts"), value_of(node.inputs[2], "ends")
    return not np.any(starts) and bool(np.all(ends >= np.iinfo(np.int32).max))


_RULES: tuple[Callable[[Graph, Node], bool], ...] = (_always, _same_type, _same_shape)
