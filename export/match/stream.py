"""The residual stream that a LayerNorm reads: its sources, its sums and its consumers.

The stream is followed along one axis, counted from the end, through sums and through operators that only move
or pick values along other axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.export.affine.value import Array
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
    producer,
    shape_of,
)

if TYPE_CHECKING:
    from onnx_graphsurgeon.ir.tensor import Dim

SOURCES = ("MatMul", "Gemm", "Conv")


@dataclass
class Stream:
    """A residual stream and the constants that must be centered.

    Attributes:
        norms: the LayerNormalizations that read it.
        edits: (node, input, axis) of every constant from which its mean over the axis is subtracted.
        axes: axis of each tensor of the stream, by identity.
        seen: (node by identity, whether it is the producer of the tensor) of all visits.
    """

    graph: Graph
    norms: list[Node] = field(default_factory=list)
    edits: dict[tuple[int, int], tuple[Node, int, int]] = field(default_factory=dict)
    axes: dict[int, int] = field(default_factory=dict)
    seen: set[tuple[int, bool]] = field(default_factory=set)

    def follow(self, start: Tensor) -> None:
        """Collect the stream around `start` along its last axis; raises Skip where it leaves the graph."""
        kept, open_ = kept_names(self.graph), [(start, -1)]
        while open_:
            tensor, axis = open_.pop()
            if self.axes.setdefault(id(tensor), axis) != axis:
                raise Skip(f"tensor '{tensor.name}' is on two axes of the stream")
            maker = producer(tensor)
            if tensor.name in kept:
                raise Skip(f"tensor '{tensor.name}' of the stream is read from outside the graph")
            if maker is None:
                raise Skip(f"input '{tensor.name}' flows into the stream, and nothing centers that")
            for node in (maker, *tensor.outputs):
                role = (id(node), node is maker)
                if role not in self.seen:
                    self.seen.add(role)
                    open_ += self._visit(node, tensor, axis, makes=node is maker)

    def center(self) -> None:
        """Subtract the means, in new constants."""
        for node, index, axis in self.edits.values():
            tensor = node.inputs[index]
            values = centered(float_of(tensor, "a constant of the stream"), axis)
            node.inputs[index] = constant(self.graph, tensor.name, values, tensor.dtype)

    def _visit(self, node: Node, tensor: Tensor, axis: int, *, makes: bool) -> list[tuple[Tensor, int]]:
        if makes and node.op in SOURCES:
            self._source(node, axis)
            return []
        if not makes and node.op == "LayerNormalization" and node.inputs[0] is tensor:
            if axis != -1 or float_of(node.inputs[1], "the scale").ndim != 1:
                raise Skip(f"'{node.name}' normalizes other axes")
            self.norms.append(node)
            return []
        inside, outside = _axes(node, axis, makes=makes)
        moved = node.inputs if node.op in ("Add", "Sub", "Concat") else node.inputs[:1]
        found = [(node.outputs[0], outside)]
        for index, operand in enumerate(moved):
            if is_constant(operand):
                float_of(operand, "a constant of the stream")
                self._edit(node, index, inside)
            else:
                found.append((operand, inside))
        return [(t, a) for t, a in found if id(t) not in self.axes]

    def _edit(self, node: Node, index: int, axis: int) -> None:
        self.edits[id(node), index] = (node, index, axis)

    def _source(self, node: Node, axis: int) -> None:
        w = float_of(node.inputs[1], f"the weight of '{node.name}'")
        if node.op == "Conv":
            if axis != 1 - w.ndim or int(node.attrs.get("group", 1)) != 1:
                raise Skip(f"'{node.name}' does not give the stream's axis as its channels")
            out = -w.ndim
        elif axis != -1 or w.ndim != 2:
            raise Skip(f"'{node.name}' does not give the stream's axis as its columns")
        else:
            out = -2 if node.op == "Gemm" and node.attrs.get("transB", 0) else -1
        self._edit(node, 1, out)
        if node.op != "MatMul" and has(node, 2):
            float_of(node.inputs[2], f"the bias of '{node.name}'")
            self._edit(node, 2, -1)


def centered(values: Array, axis: int) -> Array:
    """x - mean(x) over an axis; 0 for values that do not vary along the axis."""
    if values.ndim < -axis:
        return np.zeros(values.shape)
    return np.asarray(values - values.mean(axis=axis, keepdims=True), np.float64)


def _axes(node: Node, axis: int, *, makes: bool) -> tuple[int, int]:
    """The stream's axis before and after an operator that keeps its values; raises Skip for others."""
    if node.op in ("Add", "Sub", "Identity"):
        return axis, axis
    if node.op == "Concat" and _counted(node, int(node.attrs["axis"])) != axis:
        return axis, axis
    if node.op == "Transpose" and "perm" in node.attrs:
        perm = list(node.attrs["perm"])
        if makes:
            return perm[axis] - len(perm), axis
        return axis, perm.index(axis + len(perm)) - len(perm)
    if node.op == "Reshape":
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if before is not None and after is not None:
            return _reshaped(list(before), list(after), axis, makes=makes)
    raise Skip(f"'{node.name}' ({node.op}) stands in the stream and is no sum")


def _reshaped(before: list[Dim], after: list[Dim], axis: int, *, makes: bool) -> tuple[int, int]:
    """The axis before and after a Reshape that keeps all sizes before it or all after it; raises Skip."""
    known, other = (after, before) if makes else (before, after)
    place = len(known) + axis
    if known[axis:] == other[axis:]:
        return axis, axis
    if known[: place + 1] == other[: place + 1]:
        there = place - len(other)
        return (there, axis) if makes else (axis, there)
    raise Skip("a Reshape in the stream mixes its axis with others")


def _counted(node: Node, axis: int) -> int:
    """An axis counted from the end."""
    return axis if axis < 0 else axis - len(shape_of(node.outputs[0], f"'{node.outputs[0].name}'"))
