"""Chains of scales and shifts by constants: found, and written as the fewest operators.

A chain between two Transposes that undo each other is a chain on the axes before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.export.affine.reader import affine_of
from edgedeploy.export.affine.value import Affine, known_shape, require_storable
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    detach,
    insert,
    is_constant,
    is_standard,
    kept_names,
    producer,
    variable,
)

if TYPE_CHECKING:
    from onnx_graphsurgeon.ir.tensor import DType


@dataclass(frozen=True)
class Chain:
    """y = scale * x + shift, and the nodes that compute y: last first, only the last has other readers.

    Attributes:
        x: the tensor that the chain starts from.
        value: arrays that broadcast against x; their shape is the shape to which they widen x.
        dtype: of the constants.
    """

    x: Tensor
    value: Affine
    nodes: tuple[Node, ...] = ()
    dtype: DType = None

    @property
    def operators(self) -> tuple[str, ...]:
        """The fewest operators that compute it: a BatchNormalization if it has one, else Mul, Add or both."""
        if any(node.op == "BatchNormalization" for node in self.nodes) and _per_channel(self):
            return ("BatchNormalization",)
        scales, shifts = not self.value.is_unscaled, bool(np.any(self.value.b))
        return ("Mul", "Add") if scales and shifts else ("Add",) if shifts else ("Mul",)

    @property
    def is_shorter_written(self) -> bool:
        """Whether fewer operators than it has compute it."""
        return len(self.operators) < len(self.nodes)


def empty(x: Tensor) -> Chain:
    """1 * x + 0."""
    return Chain(x, Affine.identity(0))


def chains(graph: Graph, last: Node) -> list[Chain]:
    """The chains that end in `last`, by length; empty where `last` is no scale and shift by constants."""
    kept = kept_names(graph)
    chain = _link(graph, last, kept)
    found = [] if chain is None else [chain]
    while chain is not None and is_private(chain.x, kept):
        maker = producer(chain.x)
        before = _link(graph, maker, kept) if maker is not None else None
        if before is None:
            break
        try:
            value = chain.value.after(before.value)
        except Skip:
            break
        chain = Chain(before.x, value, (*chain.nodes, *before.nodes), chain.dtype)
        found.append(chain)
    return found


def _link(graph: Graph, node: Node, kept: set[str]) -> Chain | None:
    """The chain of one node, or of all between two Transposes of which `node` is the last."""
    if node.op != "Transpose" or not is_standard(node):
        try:
            index, value = affine_of(node)
        except Skip:
            return None
        dtype = next(tensor.dtype for tensor in node.inputs if is_constant(tensor))
        return Chain(node.inputs[index], value, (node,), dtype)
    maker, perm = producer(node.inputs[0]), node.attrs.get("perm")
    if maker is None or maker.op == "Transpose" or perm is None or not is_private(node.inputs[0], kept):
        return None
    for inner in chains(graph, maker):
        first = producer(inner.x)
        if first is None or first.op != "Transpose" or "perm" not in first.attrs:
            continue
        if [first.attrs["perm"][axis] for axis in perm] != list(range(len(perm))):
            return None
        ends = (first,) if is_private(inner.x, kept) else ()
        value = _transposed(inner.value, perm)
        return Chain(first.inputs[0], value, (node, *inner.nodes, *ends), inner.dtype)
    return None


def transposed_chains(graph: Graph, operand: Tensor, others: list[Chain]) -> list[Chain]:
    """transpose(a*r + b) = a' * transpose(r) + b', for transposes of r that chains in `others` start from."""
    maker, kept = producer(operand), kept_names(graph)
    found: list[Chain] = []
    if maker is None or maker.op != "Transpose" or not is_standard(maker) or "perm" not in maker.attrs:
        return found
    source, perm = maker.inputs[0], maker.attrs["perm"]
    before = producer(source)
    if before is None or not (is_private(operand, kept) and is_private(source, kept)):
        return found
    for inner in chains(graph, before):
        for other in others:
            twin = producer(other.x)
            if twin is None or twin.op != "Transpose" or twin.attrs.get("perm") != perm:
                continue
            if twin is not maker and twin.inputs[0] is inner.x:
                value = _transposed(inner.value, perm)
                found.append(Chain(other.x, value, (maker, *inner.nodes), inner.dtype))
    return found


def is_private(tensor: Tensor, kept: set[str]) -> bool:
    """Whether one node alone reads the tensor, and nothing outside the graph (names in `kept`)."""
    return len(tensor.outputs) == 1 and tensor.name not in kept


def write(graph: Graph, chain: Chain) -> None:
    """Replace `chain.nodes` by `chain.operators`; raises Skip where numbers are not finite."""
    operators, result, name = chain.operators, chain.nodes[0].outputs[0], chain.nodes[0].name
    scale, shift = np.broadcast_arrays(chain.value.scale, chain.value.b)
    dtype = result.dtype or chain.dtype
    require_storable(dtype, scale, shift)
    for node in chain.nodes:
        detach(node)
    if operators == ("BatchNormalization",):
        values = {"scale": scale, "shift": shift, "mean": np.zeros(1), "variance": np.ones(1)}
        channels = known_shape(chain.x)[1]
        assert isinstance(channels, int)  # noqa: S101  asked by `_per_channel`
        tensors = [
            constant(graph, f"{name}_{key}", np.broadcast_to(v.ravel(), channels), dtype)
            for key, v in values.items()
        ]
        insert(graph, "BatchNormalization", [chain.x, *tensors], [result], epsilon=0.0)
        return
    x = chain.x
    for operator in operators:
        # One operator widens x to the shape of both arrays; of two, the narrow arrays do.
        own = chain.value.scale if operator == "Mul" else chain.value.b
        values_ = own if len(operators) == 2 else np.broadcast_to(own, scale.shape)
        out = result if operator == operators[-1] else variable(graph, f"{name}_scaled", result.dtype, None)
        insert(graph, operator, [x, constant(graph, f"{name}_{operator}", values_, dtype)], [out])
        x = out


def _transposed(value: Affine, perm: list[int]) -> Affine:
    value = value.broadcast(len(perm))
    return Affine(np.transpose(value.scale, perm), np.transpose(value.b, perm))


def _per_channel(chain: Chain) -> bool:
    """Whether the arrays hold one value, or one per channel (axis 1) of an x whose channels are known."""
    shape = chain.x.shape
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        return False
    try:
        chain.value.broadcast(len(shape)).along(1, int(shape[1]))
    except Skip:
        return False
    return True
