"""y = a*x + b with constants that broadcast: read from one operator, joined along a chain or over a sum.

    after one another: a2*(a1*x + b1) + b2 = (a2 a1)*x + (a2 b1 + b2)
    beside each other: (a1*x + b1) + (a2*x + b2) = (a1 + a2)*x + (b1 + b2)

Sums are in float64. Unlike `affine.py` nothing here asks on which axis the channels lie.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgedeploy.export.affine.fold import of_batchnorm as batchnorm_affine
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    detach,
    float_of,
    insert,
    is_constant,
    is_standard,
    kept_names,
    numpy_dtype,
    producer,
    shape_of,
    variable,
)

if TYPE_CHECKING:
    from onnx_graphsurgeon.ir.tensor import DType

OPERATORS = ("Mul", "Div", "Add", "Sub", "BatchNormalization")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScaleShift:
    """a*x + b, and the nodes that compute it (last first), all of them read by nobody else.

    Attributes:
        x: the tensor it starts from.
        a, b: float64, each broadcasting against x.
        dtype: of the constants.
    """

    x: Tensor
    a: Array
    b: Array
    nodes: tuple[Node, ...] = ()
    dtype: DType = field(default=None, compare=False)

    @property
    def has_batchnorm(self) -> bool:
        return any(node.op == "BatchNormalization" for node in self.nodes)


def join(first: ScaleShift, then: ScaleShift) -> ScaleShift:
    """`then` of `first`; raises Skip where the constants would grow."""
    a, b = then.a * first.a, _bounded(then.a * first.b + then.b, first, then)
    return ScaleShift(first.x, _bounded(a, first, then), b, (*then.nodes, *first.nodes), then.dtype)


def add(p: ScaleShift, q: ScaleShift, sign: int, node: Node) -> ScaleShift:
    """p + sign*q, which `node` computes; raises Skip where the constants would grow."""
    a, b = _bounded(p.a + sign * q.a, p, q), _bounded(p.b + sign * q.b, p, q)
    dtype = p.dtype if p.dtype is not None else q.dtype
    return ScaleShift(p.x, a, b, (node, *p.nodes, *q.nodes), dtype)


def nothing(x: Tensor) -> ScaleShift:
    """1*x + 0."""
    return ScaleShift(x, np.ones(()), np.zeros(()))


def read(node: Node) -> ScaleShift | None:
    """What one operator does to its one computed operand, or None for any other operator."""
    if node.op not in OPERATORS or not is_standard(node):
        return None
    try:
        if node.op == "BatchNormalization":
            shape = node.inputs[0].shape
            if shape is None or len(shape) < 2:
                return None
            a, b = (v.reshape(-1, *[1] * (len(shape) - 2)) for v in batchnorm_affine(node))
            return ScaleShift(node.inputs[0], a, b, (node,), node.inputs[1].dtype)
        index = next((i for i in (0, 1) if is_constant(node.inputs[i])), None)
        if index is None or is_constant(node.inputs[1 - index]):
            return None
        c = float_of(node.inputs[index], "the operand")
    except Skip:
        return None
    x, dtype = node.inputs[1 - index], node.inputs[index].dtype
    one, zero = np.ones(c.shape), np.zeros(c.shape)
    if node.op == "Mul":
        return ScaleShift(x, c, zero, (node,), dtype)
    if node.op == "Add":
        return ScaleShift(x, one, c, (node,), dtype)
    if node.op == "Sub":
        return ScaleShift(x, *((one, -c) if index == 1 else (-one, c)), (node,), dtype)
    return ScaleShift(x, 1 / c, zero, (node,), dtype) if index == 1 and np.all(c) else None


def chain(graph: Graph, last: Node) -> list[ScaleShift]:
    """Of the chain of such operators that ends in `last`: its last node, its last two, ... its whole.

    A chain between two Transposes that undo each other is one on the axes before them.
    """
    kept = kept_names(graph)
    whole = _step(graph, last, kept)
    found = [] if whole is None else [whole]
    while whole is not None and _is_private(whole.x, kept):
        maker = producer(whole.x)
        before = _step(graph, maker, kept) if maker is not None else None
        if before is None:
            break
        try:
            whole = join(before, whole)
        except Skip:
            break
        found.append(whole)
    return found


def _step(graph: Graph, node: Node, kept: set[str]) -> ScaleShift | None:
    if node.op != "Transpose" or not is_standard(node):
        return read(node)
    maker, perm = producer(node.inputs[0]), node.attrs.get("perm")
    if maker is None or maker.op == "Transpose" or perm is None or not _is_private(node.inputs[0], kept):
        return None
    for inner in chain(graph, maker):
        there = producer(inner.x)
        if there is None or there.op != "Transpose" or "perm" not in there.attrs:
            continue
        if [there.attrs["perm"][axis] for axis in perm] != list(range(len(perm))):
            return None
        a, b = (
            np.transpose(values.reshape((1,) * (len(perm) - values.ndim) + values.shape), perm)
            for values in (inner.a, inner.b)
        )
        ends = (there,) if _is_private(inner.x, kept) else ()
        return ScaleShift(there.inputs[0], a, b, (node, *inner.nodes, *ends), inner.dtype)
    return None


def turned(graph: Graph, operand: Tensor, others: list[ScaleShift]) -> list[ScaleShift]:
    """transpose(a*r + b) = a'*transpose(r) + b', where the other operand starts from such a transpose(r)."""
    maker, kept = producer(operand), kept_names(graph)
    found: list[ScaleShift] = []
    if maker is None or maker.op != "Transpose" or not is_standard(maker) or "perm" not in maker.attrs:
        return found
    source, perm = maker.inputs[0], maker.attrs["perm"]
    before = producer(source)
    if before is None or not (_is_private(operand, kept) and _is_private(source, kept)):
        return found
    for inner in chain(graph, before):
        for other in others:
            twin = producer(other.x)
            if twin is None or twin.op != "Transpose" or twin.attrs.get("perm") != perm:
                continue
            if twin is not maker and twin.inputs[0] is inner.x:
                a, b = (
                    np.transpose(v.reshape((1,) * (len(perm) - v.ndim) + v.shape), perm)
                    for v in (inner.a, inner.b)
                )
                found.append(ScaleShift(other.x, a, b, (maker, *inner.nodes), inner.dtype))
    return found


def _is_private(tensor: Tensor, kept: set[str]) -> bool:
    return len(tensor.outputs) == 1 and tensor.name not in kept


def plan(of: ScaleShift) -> tuple[str, ...]:
    """The operators that compute it: a BatchNormalization where one was in it, else Mul, Add or both."""
    if of.has_batchnorm and _per_channel(of):
        return ("BatchNormalization",)
    scales, shifts = bool(np.any(of.a != 1)), bool(np.any(of.b != 0))
    return ("Mul", "Add") if scales and shifts else ("Add",) if shifts else ("Mul",)


def emit(graph: Graph, of: ScaleShift) -> None:
    """Put the operators of `plan` in the place of `of.nodes`; raises Skip where numbers are not finite."""
    operators, result, name = plan(of), of.nodes[0].outputs[0], of.nodes[0].name
    shape, dtype = np.broadcast_shapes(of.a.shape, of.b.shape), result.dtype or of.dtype
    require_storable(dtype, of.a, of.b)
    for node in of.nodes:
        detach(node)
    if operators == ("BatchNormalization",):
        channels = shape_of(of.x, "the tensor")[1]
        assert isinstance(channels, int)  # noqa: S101  `_per_channel` asked
        values = {"scale": of.a, "shift": of.b, "mean": np.zeros(1), "variance": np.ones(1)}
        tensors = [
            constant(graph, f"{name}_{key}", np.broadcast_to(v.ravel(), channels), dtype)
            for key, v in values.items()
        ]
        insert(graph, "BatchNormalization", [of.x, *tensors], [result], epsilon=0.0)
        return
    x = of.x
    for operator in operators:
        values_ = of.a if operator == "Mul" else of.b
        if len(operators) == 1:  # the other one's shape may have widened the result
            values_ = np.broadcast_to(values_, shape)
        last = operator == operators[-1]
        out = result if last else variable(graph, f"{name}_scaled", result.dtype, None)
        insert(graph, operator, [x, constant(graph, f"{name}_{operator}", values_, dtype)], [out])
        x = out


def require_storable(dtype: DType, *arrays: Array) -> None:
    """Raise Skip if values are not finite in the type that will hold them."""
    with np.errstate(over="ignore"):
        if not all(np.isfinite(values.astype(numpy_dtype(dtype))).all() for values in arrays):
            raise Skip("the joined constants would not be finite")


def _per_channel(of: ScaleShift) -> bool:
    """Whether a and b hold one value per channel (axis 1) of an x whose channels are known."""
    shape = of.x.shape
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        return False
    for values in (of.a, of.b):
        if values.ndim > len(shape):
            return False
        aligned = (1,) * (len(shape) - values.ndim) + values.shape
        if values.size != 1 and not aligned[1] == values.size == shape[1]:
            return False
    return True


def _bounded(values: Array, p: ScaleShift, q: ScaleShift) -> Array:
    """The values, unless a row met a column: then storing them costs more than computing them."""
    if values.size > max(p.a.size, p.b.size, q.a.size, q.b.size):
        raise Skip("the constants lie on different axes: joined they would grow")
    return values
