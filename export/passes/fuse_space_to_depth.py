"""Reshape (n, c, h, r, w, r) - Transpose (0, 3, 5, 1, 2, 4) - Reshape = SpaceToDepth of blocks r.

PyTorch's pixel_unshuffle transposes to (0, 1, 3, 5, 2, 4). Its channels come in another order, so it is
rewritten for one channel only.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.polynomial import fuse
from edgedeploy.export.match.sizes import agree, dim, reshaped
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, producer

_PERM, _UNSHUFFLE = [0, 3, 5, 1, 2, 4], [0, 1, 3, 5, 2, 4]


def cases(_: Rng) -> Models:
    w = {
        "three": np.array([2, 3, 4, 2, 5, 2]), "joined": np.array([2, 12, 4, 5]),
        "one": np.array([-1, 1, 4, 2, 5, 2]), "four": np.array([-1, 4, 4, 5]),
    }  # fmt: skip
    move, unshuffle = "t = Transpose<perm=[0,3,5,1,2,4]>(a) \n ", "t = Transpose<perm=[0,1,3,5,2,4]>(a) \n "
    return [
        text_model("float[2,3,8,10] x", "y", f"a = Reshape(x, three) \n {move} y = Reshape(t, joined)", w),
        text_model("float[n,1,8,10] x", "y", f"a = Reshape(x, one) \n {unshuffle} y = Reshape(t, four)", w),
    ]


@graph_pass(
    "fuse-space-to-depth",
    atol=0.0,
    cases=cases,
    ops=("Transpose",),
    phase="recognize",
    after=("static-reshape",),
)
def fuse_space_to_depth(graph: Graph, node: Node) -> int:
    first = producer(node.inputs[0])
    last = node.outputs[0].outputs[0] if node.outputs[0].outputs else None
    perm = node.attrs.get("perm")
    if perm not in (_PERM, _UNSHUFFLE) or first is None or last is None:
        raise Skip("it does not gather blocks of pixels into channels")
    if first.op != "Reshape" or last.op != "Reshape":
        raise Skip("it does not stand between two Reshapes")
    x = first.inputs[0]
    if x.shape is None or len(x.shape) != 4:
        raise Skip("what is reshaped is not known to be of rank 4")
    batch, channels, height, width = (dim(x, axis) for axis in range(4))
    parts = reshaped(first)
    block = parts[3] if len(parts) == 6 else None
    if not isinstance(channels, int) or not isinstance(height, int) or not isinstance(width, int):
        raise Skip("its sizes are not constants")
    if not isinstance(block, int) or block < 2:
        raise Skip("its blocks are not constants")
    if perm == _UNSHUFFLE and channels != 1:
        raise Skip("its channels come in another order than SpaceToDepth's")
    if height % block or width % block:
        raise Skip("the blocks do not divide height and width")
    if not agree(parts, [batch, channels, height // block, block, width // block, block]):
        raise Skip("the first Reshape does more than part the pixels")
    if not agree(reshaped(last), [batch, channels * block**2, height // block, width // block]):
        raise Skip("the last Reshape does more than join blocks and channels")
    return fuse(graph, last, [node, first], "SpaceToDepth", [x], blocksize=block)
