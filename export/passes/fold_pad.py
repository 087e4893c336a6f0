"""Conv(Pad(x, p), q) = Conv(x, p + q): a zero Pad over height and width merges with the consumer's padding.

AveragePool then counts its padding (count_include_pad = 1). MaxPool pads with -inf: a Pad of zeros merges
only where x >= 0 and no window lies in the padding alone.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    detach,
    has,
    is_constant,
    producer,
    redirect,
    require_private,
    value_of,
)

_NON_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp")


def cases(rng: Rng) -> Models:
    image = "float[1,4,h,v] x"
    c = {
        "w": floats(rng, 8, 4, 3, 3),
        "g": floats(rng, 8, 2, 3, 3),
        "p": np.array([0, 0, 1, 2, 0, 0, 3, 0]),
        "q": np.array([1, 2, 0, 1]),
        "axes": np.array([-1, 2]),
        "zero": np.float32(0),
    }
    pool = "AveragePool<kernel_shape=[3,3], strides=[2,2]{}>(a)"
    wide = "AveragePool<kernel_shape=[5,5], pads=[1,1,0,1], count_include_pad=1>(a)"
    return [
        text_model(image, "y", "a = Pad(x, p) \n y = Conv<pads=[0,1,1,0]>(a, w)", c),
        text_model(
            image, "y", 'a = Pad<mode="constant">(x, p, zero) \n y = Conv<group=2, auto_pad="VALID">(a, g)', c
        ),
        text_model(image, "y", "a = Pad(x, q, , axes) \n y = Conv<strides=[2,2]>(a, w)", c),
        text_model(image, "y", f"a = Pad(x, q, , axes) \n y = {pool.format('')}", c),
        text_model(image, "y", f"a = Pad(x, p) \n y = {wide}", c),
        text_model(
            image, "y", "r = Relu(x) \n a = Pad(r, q, , axes) \n y = MaxPool<kernel_shape=[3,3]>(a)", c
        ),
    ]


@graph_pass("fold-pad", atol=1e-5, cases=cases, ops=("Pad",), phase="fold", after=("propagate-affine",))
def fold_pad(graph: Graph, node: Node) -> int:
    if node.attrs.get("mode", "constant") != "constant":
        raise Skip(f"it pads by mode {node.attrs['mode']}")
    filler = value_of(node.inputs[2], "the padding value") if has(node, 2) else node.attrs.get("value", 0.0)
    if np.any(filler):
        raise Skip("it pads with a value other than 0")
    x, padded = node.inputs[0], node.outputs[0]
    require_private(graph, padded)
    reader = padded.outputs[0]
    if reader.op not in ("Conv", "AveragePool", "MaxPool") or reader.inputs[0] is not padded:
        raise Skip(f"{reader.op} has no padding of its own to join")
    begin, end = _spatial_pads(node, reader)
    own = list(reader.attrs.get("pads", [0] * (2 * len(begin))))
    if reader.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Skip("the reader chooses its padding by itself (auto_pad)")
    total = [int(o + p) for o, p in zip(own, [*begin, *end], strict=True)]
    if reader.op != "Conv":
        _require_pool(reader, own, total, producer(x))
    reader.attrs.pop("auto_pad", None)
    reader.attrs["pads"] = total
    if reader.op == "AveragePool":
        reader.attrs["count_include_pad"] = 1
    redirect(padded, x)
    detach(node)
    return 1


def _require_pool(reader: Node, own: list[int], total: list[int], maker: Node | None) -> None:
    """Raise Skip where padding in the pooling would give other values than the Pad."""
    if reader.attrs.get("ceil_mode", 0):
        raise Skip("the pooling rounds its size up, beyond the padding")
    if max(total) >= min(reader.attrs["kernel_shape"]):
        raise Skip("a window could lie in the padding alone")
    if len(reader.outputs) > 1:
        raise Skip("the pooling gives indices of the padded image")
    if reader.op == "AveragePool" and any(own) and not reader.attrs.get("count_include_pad", 0):
        raise Skip("the pooling counts this padding but not its own")
    if reader.op == "MaxPool" and (maker is None or maker.op not in _NON_NEGATIVE or any(own)):
        raise Skip("the maximum could be below the padding's 0")


def _spatial_pads(node: Node, reader: Node) -> tuple[list[int], list[int]]:
    """(begin, end) over the spatial axes; raises Skip if others are padded, or by a computed amount."""
    pads = value_of(node.inputs[1], "the padding") if has(node, 1) else np.asarray(node.attrs.get("pads", ()))
    shape = node.inputs[0].shape
    rank = reader.inputs[1].values.ndim if reader.op == "Conv" and is_constant(reader.inputs[1]) else None
    rank = rank or (len(shape) if shape is not None else len(reader.attrs.get("kernel_shape", ())) + 2)
    axes = value_of(node.inputs[3], "the axes") if has(node, 3) else np.arange(rank)
    begin, end = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    begin[axes], end[axes] = pads[: len(axes)], pads[len(axes) :]
    if np.any(begin[:2]) or np.any(end[:2]):
        raise Skip("it pads the batch or the channels")
    if np.any(begin < 0) or np.any(end < 0):
        raise Skip("it crops")
    return begin[2:].tolist(), end[2:].tolist()
