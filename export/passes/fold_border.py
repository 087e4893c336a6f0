"""Conv1x1(x) with its bias written around it = Conv1x1(x padded with zeros): the kernel maps 0 to the bias.

Diverse branch blocks pad after the norm of their first convolution with the value of that norm for zero, by
assignments that export as ScatterND. A convolution that pads its own input merges with the next one. Sizes
must be known. Ding et al., Diverse Branch Block, CVPR 2021; BNAndPadLayer of the authors' code.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.border import border, chain_behind, padding
from edgedeploy.export.match.shapes import is_static
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    detach,
    float_of,
    has,
    producer,
    redirect,
    require_private,
    shape_of,
)

CLOSE = 1e-6  # of the largest value: bias and border were rounded separately


def cases(rng: Rng) -> Models:
    bias, (height, width) = floats(rng, 4), (5, 6)
    places = np.stack(np.meshgrid([0], range(4), range(height), range(width), indexing="ij"), axis=-1)
    w = {
        "w": floats(rng, 4, 3, 1, 1), "b": bias, "k": floats(rng, 2, 4, 3, 3),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "first": np.array([[0]]),
        "last": np.array([[height - 1]]), "row": np.tile(bias.reshape(1, 1, 4, 1), (1, 1, 1, width)),
    }  # fmt: skip
    for name, (rows, columns) in {
        "top": (slice(1), slice(None)), "end": (slice(-1, None), slice(None)),
        "left": (slice(None), slice(1)), "right": (slice(None), slice(-1, None)),
    }.items():  # fmt: skip
        w[name] = places[:, :, rows, columns]
        w[f"v_{name}"] = np.broadcast_to(bias.reshape(1, 4, 1, 1), w[name].shape[:-1]).copy()
    start = "c = Conv(x, w, b) \n p = Pad(c, pads) \n "
    by_places = (
        "d = ScatterND(p, top, v_top) \n e = ScatterND(d, end, v_end) \n f = ScatterND(e, left, v_left) \n "
        "g = ScatterND(f, right, v_right) \n y = Conv(g, k)"
    )
    by_rows = (
        "t = Transpose<perm=[2,0,1,3]>(p) \n d = ScatterND(t, first, row) \n e = ScatterND(d, last, row) \n "
        "o = Transpose<perm=[1,2,0,3]>(e) \n f = ScatterND(o, left, v_left) \n "
        "g = ScatterND(f, right, v_right) \n y = Conv(g, k)"
    )
    image = "float[1,3,3,4] x"
    return [text_model(image, "y", start + body, w) for body in (by_places, by_rows)]


@graph_pass("fold-border", atol=1e-5, cases=cases, ops=("Pad",), phase="fold", after=("fold-batchnorm",))
def fold_border(graph: Graph, node: Node) -> int:
    x, conv = node.inputs[0], producer(node.inputs[0])
    if conv is None or conv.op != "Conv" or not has(conv, 2):
        raise Skip("it does not follow a convolution with a bias")
    chain = chain_behind(graph, node)
    if not any(step.op == "ScatterND" for step in chain):
        raise Skip("nothing is written around what it pads")
    require_private(graph, x)
    window = [*conv.attrs.get("strides", ()), *shape_of(conv.inputs[1], "the weight")[2:]]
    if any(size != 1 for size in window) or any(conv.attrs.get("pads", ())) or not is_static(x.shape):
        raise Skip("the convolution is not of size and stride 1 without padding, or its sizes are not known")
    bias, rank = float_of(conv.inputs[2], "the bias"), len(x.shape)
    around = border(list(x.shape), node, chain)
    off = np.abs(around - bias.reshape(1, -1, *[1] * (rank - 2)))
    if np.nanmax(off, initial=0.0) > CLOSE * np.abs(bias).max():
        raise Skip("what is written around is not the bias")
    widths, last = padding(node, rank), chain[-1].outputs[0]
    conv.attrs["pads"] = [*widths[2:rank], *widths[rank + 2 :]]
    x.shape = list(around.shape)
    redirect(last, x)
    for step in (node, *chain):
        detach(step)
    return 1
