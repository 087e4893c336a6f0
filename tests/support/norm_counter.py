"""Why a norm stays, from the graph alone: a contradiction that any way of taking it out would lead to.

Without its norm, one channel of every tensor around it could become p*x + q; what is asked here is only
whether p is 1, positive or negative, and whether q is 0. Every operator allows some of these and not others;
if none is left for some tensor, no weights whatsoever replace the norm. Operators not listed allow all, so
that a contradiction is a proof. Nothing of the passes is used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

State: TypeAlias = tuple[int, bool]  # the sign of p, 0 for p = 1; whether there is a q
Variable: TypeAlias = tuple[str, int]  # a tensor and one of its channels
Test: TypeAlias = Callable[..., bool]
Constraint: TypeAlias = tuple[tuple[Variable, ...], Test, str]

STATES: tuple[State, ...] = tuple(product((0, 1, -1), (False, True)))
DATA_NORMS = {
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
}
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
HALVES = {"Relu", "LeakyRelu", "PRelu"}
CURVED = {
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Clip",
    "Tanh",
    "Gelu",
    "Mish",
    "Softplus",
    "Erf",
    "Exp",
    "Softmax",
}
ITSELF = "the norm"
LINEAR = {"Identity", "Resize", "GlobalAveragePool", "ReduceMean"}


class Model:
    """A graph in which producers and readers are looked up."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.nodes = list(graph.node)
        self.constants = {t.name: t for t in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = attributes(node)["value"]
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.ends = {value.name for value in (*graph.input, *graph.output)} - set(self.constants)
        values = (*graph.value_info, *graph.input, *graph.output)
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    def values(self, name: str) -> NDArray[Any]:
        return np.asarray(numpy_helper.to_array(self.constants[name]), np.float64)

    def around(self, name: str) -> list[onnx.NodeProto]:
        return [*([self.maker[name]] if name in self.maker else []), *self.readers.get(name, [])]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def norms(model: onnx.ModelProto) -> list[str]:
    """Names of the batch norms."""
    return [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]


def why_it_stays(model: onnx.ModelProto, name: str) -> str:
    """The operators between which nothing is left without the batch norm `name`; "" if there may be a way."""
    graph = Model(model)
    norm = next(node for node in graph.nodes if node.name == name)
    gamma, beta, mean, variance = (graph.values(tensor) for tensor in norm.input[1:5])
    s = gamma / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
    t = beta - mean * s
    for channel in range(len(s)):
        reason = contradiction(graph, norm, channel, float(s[channel]), float(t[channel]))
        if reason:
            return f"channel {channel}: {reason}"
    return ""


def contradiction(graph: Model, norm: onnx.NodeProto, channel: int, s: float, t: float) -> str:
    """Where the constraints around a norm leave nothing for one channel; "" if they leave something."""
    ends = ((norm.input[0], channel), (norm.output[0], channel))
    sign = 0 if abs(s - 1) < 1e-6 else 1 if s > 0 else -1

    def without(x: State, y: State) -> bool:  # p x + q = p' (s x + t) + q', so that one tensor serves as both
        return _multiplies(x[0], y[0], sign) and (x[1] or y[1] or abs(t) < 1e-6)

    constraints: list[Constraint] = [(ends, without, ITSELF)]
    seen, queue = set(ends), deque(ends)
    while queue:
        name, place = queue.popleft()
        if name in graph.ends:
            constraints.append((((name, place),), _same, f"'{name}' is an input or output of the graph"))
        for node in graph.around(name):
            if node is norm:
                continue
            for constraint in _constraints(graph, node, name, place):
                constraints.append(constraint)
                fresh = [variable for variable in constraint[0] if variable not in seen]
                seen.update(fresh)
                queue.extend(fresh)
    return _reduced(seen, constraints)


def _reduced(variables: set[Variable], constraints: list[Constraint]) -> str:
    """Strike out what some constraint does not allow, until a tensor has nothing left."""
    domains = {variable: set(STATES) for variable in variables}
    struck: dict[str, None] = {}
    changed = True
    while changed:
        changed = False
        for around, allows, reason in constraints:
            found = [states for states in product(*(domains[v] for v in around)) if allows(*states)]
            for place, variable in enumerate(around):
                left = {states[place] for states in found}
                if left != domains[variable]:
                    changed = True
                    struck[reason] = None
                domains[variable] = left
            if not found:
                return ", ".join(reason for reason in struck if reason != ITSELF)
    return ""


def _constraints(  # noqa: C901  one case an operator
    graph: Model, node: onnx.NodeProto, name: str, channel: int
) -> list[Constraint]:
    """What a node says of one channel (axis 1) of one of its tensors."""
    op, here, reason = node.op_type, (name, channel), f"{node.op_type} '{node.name}'"
    x, y = (node.input[0], channel), (node.output[0], channel)
    if op in WEIGHTED:
        if node.input[1] not in graph.constants or name in node.input[1:]:
            return [((here,), _same, reason)]
        padded = any(attributes(node).get("pads", ())) or op == "ConvTranspose"
        return [((here,), _unshifted, reason)] if name == node.input[0] and padded else []
    if op in DATA_NORMS:
        return [((here,), _same, reason)] if name == node.input[0] else []
    if op in CURVED:
        return [((here,), _same, reason)]
    if op in HALVES:
        return [((x, y), _half, reason)]
    if len(graph.shapes.get(node.output[0], ())) != 4:
        return []
    if op == "AveragePool":
        counted = attributes(node).get("count_include_pad", 0) and any(attributes(node).get("pads", ()))
        return [((x, y), _zero_padded if counted else _alike, reason)]
    if op in ("MaxPool", "GlobalMaxPool"):
        return [((x, y), _rising, reason)]
    if op in LINEAR and len(graph.shapes.get(node.input[0], ())) == 4:
        return [((x, y), _alike, reason)]
    if op in ("Add", "Sub", "Mul"):
        return _arithmetic(graph, node, channel, reason)
    if op == "Concat" and attributes(node)["axis"] in (1, -3):
        return _joined(graph, node, name, channel, reason)
    return []


def _arithmetic(graph: Model, node: onnx.NodeProto, channel: int, reason: str) -> list[Constraint]:
    names = [name for name in node.input if name not in graph.constants]
    result = graph.shapes[node.output[0]]
    if any(graph.shapes.get(name) != result for name in names) or len(set(names)) != len(names):
        return []  # a gate that broadcasts, a square
    around = tuple((name, channel) for name in (*names, node.output[0]))
    if len(names) == 2:
        return [(around, _product if node.op_type == "Mul" else _sum, reason)]
    if node.op_type == "Mul":
        return []
    return [(around, lambda x, y: x[0] == y[0], reason)]  # the constant takes every shift


def _joined(graph: Model, node: onnx.NodeProto, name: str, channel: int, reason: str) -> list[Constraint]:
    start, found = 0, []
    for part in node.input:
        size = graph.shapes[part][1]
        if part == name:
            found.append((((part, channel), (node.output[0], start + channel)), _alike, reason))
        elif name == node.output[0] and start <= channel < start + size and part not in graph.constants:
            found.append((((part, channel - start), (name, channel)), _alike, reason))
        start += size
    return found


def _multiplies(product_: int, *factors: int) -> bool:
    """Whether p may be the product of factors of these signs; 0 is a factor of exactly 1."""
    sign = -1 if sum(factor < 0 for factor in factors) % 2 else 1
    others = [factor for factor in factors if factor]
    if len(others) < 2:
        return product_ == (others[0] if others else 0)
    return product_ in ((-1,) if sign < 0 else (0, 1))


def _same(x: State) -> bool:
    return x == (0, False)


def _unshifted(x: State) -> bool:
    return not x[1]


def _alike(x: State, y: State) -> bool:
    return x == y


def _zero_padded(x: State, y: State) -> bool:
    return x == y and not x[1]


def _rising(x: State, y: State) -> bool:
    return x == y and x[0] >= 0


def _half(x: State, y: State) -> bool:
    return x == y and x[0] >= 0 and not x[1]


def _sum(x: State, z: State, y: State) -> bool:
    return x[0] == z[0] == y[0] and x[1] + z[1] + y[1] != 1


def _product(x: State, z: State, y: State) -> bool:
    return not (x[1] or z[1] or y[1]) and _multiplies(y[0], x[0], z[0])
