"""y = a*x + b per channel, folded into the weighted operator before or after it; all sums in float64.

    after  Conv:  a*(W*x + c) + b   = (a W)*x + (a c + b)     per output channel
    before Conv:  W*(a x + b) + c   = (W a)*x + (c + sum_ik W b)    per input channel, if no padding

Gemm and rank-2 MatMul are convolutions of size 1 here; a ConvTranspose has weights (in, out/group, kernel).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    detach,
    float_of,
    has,
    redirect,
    require_private,
)

Vector = NDArray[np.float64]
EPSILON = 1e-5  # BatchNormalization's default
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def channel_vector(values: NDArray[np.float64], rank: int, channels: int) -> Vector:
    """A broadcast constant as one value per channel (axis 1) of a rank-`rank` tensor; raises Skip if more."""
    if values.size == 1 and values.ndim <= rank:
        return np.full(channels, values.reshape(()))
    if values.ndim > rank or (aligned := (1,) * (rank - values.ndim) + values.shape)[1] != values.size:
        raise Skip(f"a constant of shape {list(values.shape)} is not one value per channel")
    if aligned[1] != channels:
        raise Skip(f"the constant has {aligned[1]} channels, the operator {channels}")
    return values.reshape(channels)


def of_batchnorm(node: Node) -> tuple[Vector, Vector]:
    """(a, b) of a BatchNormalization in inference; raises Skip if it trains or has no constants."""
    if node.attrs.get("training_mode", 0) or sum(not out.is_empty() for out in node.outputs) > 1:
        raise Skip("it is in training mode")
    if not node.attrs.get("spatial", 1):
        raise Skip("it normalizes every place by itself (spatial=0)")
    names = ("scale", "shift", "mean", "variance")
    scale, shift, mean, var = (float_of(t, n) for t, n in zip(node.inputs[1:5], names, strict=True))
    a = scale / np.sqrt(var + float(node.attrs.get("epsilon", EPSILON)))
    return a, shift - mean * a


def output_channels(node: Node) -> tuple[int, int]:
    """(rank, channels) of what a weighted operator gives; raises Skip if its weights are not constant."""
    w = weights(node)
    if node.op == "Conv":
        return w.ndim, w.shape[0]
    if node.op == "ConvTranspose":
        return w.ndim, w.shape[1] * int(node.attrs.get("group", 1))
    if node.op == "Gemm":
        return 2, w.shape[0 if node.attrs.get("transB", 0) else 1]
    return _matmul_rank(node, w), w.shape[-1]


def fold_after(graph: Graph, follower: Node, maker: Node | None, a: Vector, b: Vector) -> int:
    """Fold `follower`, which computes a*x + b from the output x of `maker`, into `maker`; raises Skip."""
    if maker is None or maker.op not in WEIGHTED:
        raise Skip("it does not follow a convolution or a matrix product")
    middle, result = maker.outputs[0], follower.outputs[0]
    require_private(graph, middle)
    w = scale_outputs(maker, weights(maker), a)
    _store(graph, maker, w, bias(maker, len(a)) * a + b)
    detach(follower)
    if result.shape is None:
        result.shape = middle.shape
    maker.outputs[0] = result
    return 1


def scale_outputs(node: Node, w: NDArray[np.float64], a: Vector) -> NDArray[np.float64]:
    """a W: weights scaled per output channel."""
    if node.op == "Conv":
        return w * a.reshape(-1, *[1] * (w.ndim - 1))
    if node.op == "ConvTranspose":
        groups = int(node.attrs.get("group", 1))
        grouped = w.reshape(groups, -1, *w.shape[1:]) * a.reshape(groups, 1, -1, *[1] * (w.ndim - 2))
        return grouped.reshape(w.shape)
    return w * a[:, None] if node.op == "Gemm" and node.attrs.get("transB", 0) else w * a


def fold_before(graph: Graph, leader: Node, source: Tensor, a: Vector, b: Vector) -> int:
    """Fold `leader`, which computes a*x + b from x = `source`, into its one reader; raises Skip."""
    middle = leader.outputs[0]
    require_private(graph, middle)
    absorb(graph, middle.outputs[0], middle, a, b)
    redirect(middle, source)
    detach(leader)
    return 1


def input_channels(node: Node) -> tuple[int, int]:
    """(rank, channels) of what a weighted operator reads; raises Skip if its weights are not constant."""
    w = weights(node)
    if node.op == "Conv":
        return w.ndim, w.shape[1] * int(node.attrs.get("group", 1))
    if node.op == "ConvTranspose":
        return w.ndim, w.shape[0]
    if node.op == "Gemm":
        return 2, w.shape[1 if node.attrs.get("transB", 0) else 0]
    return _matmul_rank(node, w), w.shape[0]


def absorb(graph: Graph, node: Node, x: Tensor, a: Vector, b: Vector) -> None:
    """Change the weights of `node` so that reading x it computes what it did on a*x + b; raises Skip."""
    if node.op not in WEIGHTED or node.inputs[0] is not x:
        raise Skip("it is not followed by a convolution or a matrix product")
    if any(tensor is x for tensor in node.inputs[1:]):
        raise Skip("the tensor feeds the operator twice")
    w = weights(node)
    channels = input_channels(node)[1]
    if len(a) != channels:
        raise Skip(f"{len(a)} channels meet an operator of {channels}")
    if np.any(b) and node.op == "ConvTranspose":
        raise Skip("a shift before a ConvTranspose does not reach all its outputs alike")
    if np.any(b) and is_padded(node):
        raise Skip("the convolution pads with zeros, which the shift would not reach")
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        raise Skip("the matrix product reads its input transposed")
    scaled, shift = scale_inputs(node, w, a, b)
    if np.any(shift):
        _store(graph, node, scaled, bias(node, len(shift)) + shift)
    else:
        node.inputs[1] = constant(graph, node.inputs[1].name, _unscaled(node, scaled), node.inputs[1].dtype)


def scale_inputs(
    node: Node, w: NDArray[np.float64], a: Vector, b: Vector
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(W a, W b): weights scaled per input channel, and what the shift adds to every output."""
    if node.op == "Conv":
        groups = int(node.attrs.get("group", 1))
        per_group = (groups, 1, -1, *[1] * (w.ndim - 2))
        grouped = w.reshape(groups, -1, *w.shape[1:])
        shift = (grouped * b.reshape(per_group)).sum(axis=tuple(range(2, w.ndim + 1))).ravel()
        return (grouped * a.reshape(per_group)).reshape(w.shape), shift
    if node.op == "ConvTranspose":
        return w * a.reshape(-1, *[1] * (w.ndim - 1)), np.zeros(output_channels(node)[1])
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        return w * a, w @ b
    return w * a[:, None], b @ w


def is_padded(node: Node) -> bool:
    """Whether a convolution adds zeros around its input."""
    if node.op not in ("Conv", "ConvTranspose"):
        return False
    if node.attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return True
    return any(node.attrs.get("pads", ()))


def weights(node: Node) -> NDArray[np.float64]:
    """The weights in float64, Gemm's times alpha; raises Skip if they are computed."""
    w = float_of(node.inputs[1], f"the weight of '{node.name}'")
    if node.op == "MatMul" and w.ndim != 2:
        raise Skip(f"the matrix has rank {w.ndim}")
    return w * float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else w


def bias(node: Node, channels: int) -> NDArray[np.float64]:
    """The bias in float64, Gemm's times beta and broadcast to channels; raises Skip if computed."""
    if node.op == "MatMul" or not has(node, 2):
        return np.zeros(channels)
    c = float_of(node.inputs[2], f"the bias of '{node.name}'")
    if node.op == "Gemm":
        c = c * float(node.attrs.get("beta", 1.0))
        return np.broadcast_to(c, np.broadcast_shapes(c.shape, (channels,)))
    return c


def _unscaled(node: Node, w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights as stored: Gemm's alpha stays in its attribute unless the bias is written too."""
    return w / float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else w


def _store(graph: Graph, node: Node, w: NDArray[np.float64], c: NDArray[Any]) -> None:
    """Write weights and bias as new constants; a MatMul becomes the Gemm that has room for a bias."""
    weight = node.inputs[1]
    if not (np.isfinite(w).all() and np.isfinite(c).all()):
        raise Skip("the folded weights would not be finite")
    node.inputs[1] = constant(graph, weight.name, w, weight.dtype)
    bias_name = node.inputs[2].name if has(node, 2) else f"{weight.name}_bias"
    added = constant(graph, bias_name, c, weight.dtype)
    if node.op == "Gemm":
        node.attrs.update(alpha=1.0, beta=1.0)
    if node.op == "MatMul":
        node.op = "Gemm"
    if len(node.inputs) > 2:
        node.inputs[2] = added
    else:
        node.inputs.append(added)


def _matmul_rank(node: Node, w: NDArray[np.float64]) -> int:
    shape = node.inputs[0].shape
    if shape is None or len(shape) != 2:
        raise Skip("the matrix product is not known to be of rank 2")
    return w.ndim
