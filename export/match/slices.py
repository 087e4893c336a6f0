"""Slice as a range per axis, counted from the front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.graphs.surgeon import Graph, Node, Skip, constant, has, value_of

if TYPE_CHECKING:
    from onnx_graphsurgeon.ir.tensor import Dim

FAR = 2**31 - 1  # an end beyond every axis


@dataclass(frozen=True)
class Range:
    """Indices begin, begin + step, ... below `end` and the size of the axis; no field is negative."""

    begin: int
    end: int
    step: int

    def of(self, first: Range) -> Range:
        """This range applied after `first`: a[first][self] = a[self.of(first)]."""
        begin = first.begin + self.begin * first.step
        return Range(begin, min(first.end, first.begin + self.end * first.step), first.step * self.step)


def ranges(node: Node) -> dict[int, Range]:
    """Axis -> range of a Slice; raises Skip for computed and for backward ranges."""
    if len(node.inputs) < 3:
        raise Skip("its ranges are attributes, as before opset 10")
    shape = node.inputs[0].shape
    starts, ends = (
        value_of(node.inputs[i], what).reshape(-1).tolist() for i, what in ((1, "its start"), (2, "its end"))
    )
    named = value_of(node.inputs[3], "its axes").reshape(-1).tolist() if has(node, 3) else range(len(starts))
    steps = value_of(node.inputs[4], "its step").reshape(-1).tolist() if has(node, 4) else [1] * len(starts)
    found: dict[int, Range] = {}
    for axis, begin, end, step in zip(named, starts, ends, steps, strict=True):
        place = int(axis)
        if axis < 0:
            if shape is None:
                raise Skip("the rank is not known")
            place += len(shape)
        size = shape[place] if shape is not None else None
        if step < 1:
            raise Skip("it runs backwards")
        found[place] = Range(_from_front(begin, size), _from_front(end, size), int(step))
    return found


def write(graph: Graph, node: Node, of: dict[int, Range]) -> None:
    """Set the ranges of a Slice."""
    axes = sorted(of)
    columns = {
        "starts": [min(of[axis].begin, FAR) for axis in axes],
        "ends": [min(of[axis].end, FAR) for axis in axes],
        "axes": axes,
        "steps": [of[axis].step for axis in axes],
    }
    name = node.outputs[0].name
    tensors = [constant(graph, f"{name}_{key}", np.array(v, np.int64)) for key, v in columns.items()]
    node.inputs = [node.inputs[0], *tensors]


def _from_front(index: int, size: Dim) -> int:
    if index < 0 and not isinstance(size, int):
        raise Skip("it counts from the end of an axis whose size is not known")
    return max(0, int(index) + (size if index < 0 and isinstance(size, int) else 0))
