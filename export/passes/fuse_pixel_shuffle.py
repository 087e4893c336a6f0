"""Reshape (n, c, r, r, h, w) - Transpose (0, 1, 4, 2, 5, 3) - Reshape = DepthToSpace of blocks r, mode CRD.

With Reshape (n, r, r, c, h, w) and Transpose (0, 3, 4, 1, 5, 2) it is mode DCR. Not rewritten:
ChannelShuffle, which moves no pixels. Shi et al., Real-Time Single Image and Video Super-Resolution, CVPR
2016, eq. 4.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.polynomial import fuse
from edgedeploy.export.match.sizes import agree, dim, reshaped, times
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, producer, require_opset

# mode: (perm, axis of the channels, axes of the block) among the six axes
_MODES = {"CRD": ([0, 1, 4, 2, 5, 3], 1, (2, 3)), "DCR": ([0, 3, 4, 1, 5, 2], 3, (1, 2))}


def cases(_: Rng) -> Models:
    w = {
        "crd": np.array([2, 3, 2, 2, 4, 5]), "dcr": np.array([0, 2, 2, 3, 4, 5]),
        "out": np.array([2, 3, 8, 10]),
        "open": np.array([-1, 3, 8, 10]), "n3rr": np.array([3, 2, 2]), "from0": np.array([0]),
        "to1": np.array([1]), "to2": np.array([2]), "far": np.array([9]), "three": np.array([3]),
    }  # fmt: skip
    crd, dcr = "t = Transpose<perm=[0,1,4,2,5,3]>(a) \n ", "t = Transpose<perm=[0,3,4,1,5,2]>(a) \n "
    shape = "s = Shape(x) \n b = Slice(s, from0, to1) \n e = Slice(s, to2, far) \n "
    shape += "p = Concat<axis=0>(b, n3rr, e) \n m = Mul(e, to2) \n q = Concat<axis=0>(b, three, m) \n "
    return [
        text_model("float[2,12,4,5] x", "y", f"a = Reshape(x, crd) \n {crd} y = Reshape(t, out)", w),
        text_model("float[n,12,4,5] x", "y", f"a = Reshape(x, dcr) \n {dcr} y = Reshape(t, open)", w),
        text_model("float[n,12,h,v] x", "y", f"{shape} a = Reshape(x, p) \n {crd} y = Reshape(t, q)", w),
    ]


@graph_pass(
    "fuse-pixel-shuffle",
    atol=0.0,
    cases=cases,
    ops=("Transpose",),
    phase="recognize",
    after=("static-reshape",),
)
def fuse_pixel_shuffle(graph: Graph, node: Node) -> int:
    mode = next((key for key, value in _MODES.items() if node.attrs.get("perm") == value[0]), None)
    first = producer(node.inputs[0])
    last = node.outputs[0].outputs[0] if node.outputs[0].outputs else None
    if mode is None or first is None or last is None or first.op != "Reshape" or last.op != "Reshape":
        raise Skip("it is not a pixel shuffle between two Reshapes")
    x = first.inputs[0]
    if x.shape is None or len(x.shape) != 4:
        raise Skip("what is reshaped is not known to be of rank 4")
    _, place, blocks = _MODES[mode]
    parts = reshaped(first)
    channels, block = (parts[place], parts[blocks[0]]) if len(parts) == 6 else (None, None)
    if not isinstance(channels, int) or not isinstance(block, int) or block < 2:
        raise Skip("channels and blocks are not constants")
    batch, _, height, width = (dim(x, axis) for axis in range(4))
    inner = {place: channels, blocks[0]: block, blocks[1]: block}
    wanted = [batch, *(inner[axis] for axis in (1, 2, 3)), height, width]
    if dim(x, 1) != channels * block * block or not agree(parts, wanted):
        raise Skip("the first Reshape does more than part the channels")
    if not agree(reshaped(last), [batch, channels, times(height, block), times(width, block)]):
        raise Skip("the last Reshape does more than join blocks and pixels")
    require_opset(graph, 11 if mode == "CRD" else 1, "DepthToSpace with a mode")
    attrs = {"mode": mode} if graph.opset >= 11 else {}
    return fuse(graph, last, [node, first], "DepthToSpace", [x], blocksize=block, **attrs)
