"""Equal initializers become one, then equal nodes on equal inputs.

Weights and biases stay separate: quantization equalizes and scales those of each operator.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from edgedeploy.core.operators import WEIGHTED
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import (
    RANDOM,
    Constant,
    Graph,
    Node,
    Skip,
    detach,
    dtype_name,
    has_bodies,
    is_constant,
    is_standard,
    kept_names,
    redirect,
)

_VARYING = RANDOM | {"Dropout"}
_COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal"})  # f(x, y) = f(y, x), to the last bit


def cases(rng: Rng) -> Models:
    w = floats(rng, 4, 3, 3, 3)
    twice = "a = Relu(x) \n b = Relu(x) \n y = Conv(a, w) \n z = Conv<strides=[1,1]>(b, v)"
    swapped = "a = Tanh(x) \n b = Sin(x) \n c = Add(a, b) \n d = Mul(c, a) \n e = Sin(x) \n f = Tanh(x) \n "
    swapped += "g = Add(e, f) \n h1 = Mul(f, g) \n y = Concat<axis=1>(d, h1)"
    return [
        text_model("float[1,3,8,8] x", "y", swapped, {}),
        text_model("float[1,3,h,v0] x", "y, z", twice, {"w": w, "v": w.copy()}),
        text_model("float[1,3,8,8] x", "y", "a = Tanh(x) \n b = Tanh(x) \n y = Concat<axis=1>(a, b)", {}),
    ]


@graph_pass("merge-duplicates", atol=0.0, cases=cases, phase="clean", after=("drop-neutral",))
def merge_duplicates(graph: Graph) -> int:
    hits = _merge_constants(graph)
    kept = kept_names(graph)
    seen: dict[Hashable, Node] = {}
    for node in graph.nodes:
        if not is_standard(node) or node.op in _VARYING or has_bodies(node):
            continue
        try:
            first = seen.setdefault(_key(node), node)
        except Skip:
            continue
        if first is node or any(output.name in kept for output in node.outputs):
            continue
        for old, new in zip(node.outputs, first.outputs, strict=True):
            redirect(old, new)
        detach(node)
        hits += 1
    return hits


def _merge_constants(graph: Graph) -> int:
    kept = kept_names(graph)
    alike: dict[Hashable, list[Constant]] = {}
    for tensor in graph.tensors().values():
        if not is_constant(tensor) or tensor.name in kept:
            continue
        if dtype_name(tensor) in ("object", "str", "string"):
            continue
        if not any(node.op in WEIGHTED for node in tensor.outputs):
            alike.setdefault((dtype_name(tensor), *tensor.shape), []).append(tensor)
    # Reading values copies them, so values are compared only where type and shape agree.
    return sum(_merge_equal(tensors) for tensors in alike.values() if len(tensors) > 1)


def _merge_equal(tensors: list[Constant]) -> int:
    seen: dict[bytes, Constant] = {}
    hits = 0
    for tensor in tensors:
        first = seen.setdefault(np.asarray(tensor.values).tobytes(), tensor)
        if first is not tensor:
            redirect(tensor, first)
            hits += 1
    return hits


def _key(node: Node) -> Hashable:
    """Operator, inputs by identity, attributes, existing outputs; raises Skip for tensor attributes."""
    inputs = tuple(0 if tensor.is_empty() else id(tensor) for tensor in node.inputs)
    if node.op in _COMMUTATIVE:
        inputs = tuple(sorted(inputs))
    attributes = tuple(sorted((name, _frozen(value)) for name, value in node.attrs.items()))
    return node.op, inputs, attributes, tuple(output.is_empty() for output in node.outputs)


def _frozen(value: object) -> Hashable:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, (int, float, str)):
        return value
    raise Skip("an attribute is a tensor")
