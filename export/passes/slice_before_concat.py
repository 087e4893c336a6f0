"""[a, b, c][i:j] = b[i - |a| : j - |a|] where the range lies in b: a Slice of a Concat reads one input.

A Slice of a whole input is removed. The Concat vanishes with its last consumer.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.slices import Range, ranges, write
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, Tensor, bypass, is_standard, producer


def cases(_: Rng) -> Models:
    c = {
        "zero": np.array([0]), "three": np.array([3]), "six": np.array([6]), "five": np.array([5]),
        "end": np.array([2**63 - 1]), "axis": np.array([1]), "back": np.array([-2]), "two": np.array([2]),
        "from": np.array([4, 1]), "to": np.array([6, 4]), "axes": np.array([1, 2]),
    }  # fmt: skip
    start = "a = Relu(x) \n b = Tanh(x) \n k = Concat<axis=1>(x, a, b) \n "
    bodies = (
        "s = Slice(k, three, six, axis) \n y = Neg(s)",
        "y = Slice(k, six, end, axis)",
        "s = Slice(k, zero, three, axis) \n t = Slice(k, six, end, axis) \n y = Add(s, t)",
        "y = Slice(k, back, end, axis)",
        "y = Slice(k, three, five, axis, two)",
        "y = Slice(k, from, to, axes)",
    )
    kinds = ("float[2,3,4,5] x", "float[n,3,h,v] x")
    return [text_model(kind, "y", start + body, c) for kind in kinds for body in bodies]


@graph_pass(
    "slice-before-concat", atol=0.0, cases=cases, ops=("Slice",), phase="clean", after=("merge-slices",)
)
def slice_before_concat(graph: Graph, node: Node) -> int:
    joined = producer(node.inputs[0])
    if joined is None or joined.op != "Concat" or not is_standard(joined):
        return 0
    shape = node.inputs[0].shape
    if shape is None:
        raise Skip("the rank is not known")
    axis = int(joined.attrs["axis"]) % len(shape)
    wanted = ranges(node)
    if axis not in wanted:
        raise Skip("it slices another axis than the pieces are joined on")
    piece, moved, size = _piece(joined.inputs, wanted[axis], axis)
    rest = {k: v for k, v in wanted.items() if k != axis}
    node.inputs[0] = piece
    if moved == Range(0, size, 1) and not rest:
        try:
            bypass(graph, node)
        except Skip:  # between an input and an output something must stand
            node.op, node.inputs = "Identity", [piece]
            node.attrs.clear()
        return 1
    write(graph, node, {**rest, axis: moved})
    return 1


def _piece(pieces: list[Tensor], of: Range, axis: int) -> tuple[Tensor, Range, int]:
    """(input, range in the input, its size) of a range; raises Skip where the range spans several inputs."""
    begin = 0
    for piece in pieces:
        size = None if piece.shape is None else piece.shape[axis]
        if not isinstance(size, int):
            raise Skip("the sizes of the pieces are not known")
        last = piece is pieces[-1]
        if begin <= of.begin < begin + size and (of.end <= begin + size or last):
            return piece, Range(of.begin - begin, min(max(0, of.end - begin), size), of.step), size
        begin += size
    raise Skip("the range is not in one piece")
