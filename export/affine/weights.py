"""Weights and bias of y = W x + c (Conv, ConvTranspose, Gemm, MatMul), scaled on either side.

    behind:   a (W x + c) + b = (a W) x + (a c + b)          per output channel
    before:   W (p x + q) + c = (W p) x + (c + W q)          per input channel; no padding where q is not 0

Gemm and MatMul by a matrix are convolutions of size 1; the weights of a ConvTranspose have the axes (in,
out/group, kernel). All results are float64.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.affine.value import Array
from edgedeploy.graphs.surgeon import Node, Skip, float_of, has, is_constant


def channels_of(node: Node) -> tuple[int, int]:
    """(input channels, output channels); raises Skip for computed weights and for stacks of matrices."""
    if not is_constant(node.inputs[1]):
        raise Skip("has weights that are not constant")
    shape = node.inputs[1].shape
    if node.op in ("Gemm", "MatMul"):
        if len(shape) != 2:
            raise Skip(f"the matrix has rank {len(shape)}")
        return (shape[1], shape[0]) if node.attrs.get("transB", 0) else (shape[0], shape[1])
    by_group = shape[1] * int(node.attrs.get("group", 1))
    return (by_group, shape[0]) if node.op == "Conv" else (shape[0], by_group)


def weights(node: Node) -> Array:
    """The weights, Gemm's times alpha; raises Skip if they are computed."""
    w = float_of(node.inputs[1], f"the weight of '{node.name}'")
    return w * float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else w


def bias(node: Node) -> Array:
    """The bias per output channel, Gemm's times beta, 0 where there is none; raises Skip if computed."""
    outputs = channels_of(node)[1]
    if node.op == "MatMul" or not has(node, 2):
        return np.zeros(outputs)
    c = float_of(node.inputs[2], f"the bias of '{node.name}'")
    if node.op == "Gemm":
        c = c * float(node.attrs.get("beta", 1.0))
        return np.broadcast_to(c, np.broadcast_shapes(c.shape, (outputs,)))
    return c


def scale_outputs(node: Node, w: Array, a: Array) -> Array:
    """a W: weights scaled per output channel."""
    if node.op == "Conv":
        return w * a.reshape(-1, *[1] * (w.ndim - 1))
    if node.op == "ConvTranspose":
        groups = int(node.attrs.get("group", 1))
        grouped = w.reshape(groups, -1, *w.shape[1:]) * a.reshape(groups, 1, -1, *[1] * (w.ndim - 2))
        return grouped.reshape(w.shape)
    return w * a[:, None] if node.op == "Gemm" and node.attrs.get("transB", 0) else w * a


def scale_inputs(node: Node, w: Array, p: Array, q: Array) -> tuple[Array, Array]:
    """(W p, W q): weights scaled per input channel, and what the shift adds to every output."""
    if node.op == "Conv":
        groups = int(node.attrs.get("group", 1))
        per_group = (groups, 1, -1, *[1] * (w.ndim - 2))
        grouped = w.reshape(groups, -1, *w.shape[1:])
        shift = (grouped * q.reshape(per_group)).sum(axis=tuple(range(2, w.ndim + 1))).ravel()
        return (grouped * p.reshape(per_group)).reshape(w.shape), shift
    if node.op == "ConvTranspose":  # never with a shift: it does not reach all outputs alike
        return w * p.reshape(-1, *[1] * (w.ndim - 1)), np.zeros(channels_of(node)[1])
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        return w * p, w @ q
    return w * p[:, None], q @ w


def is_padded(node: Node) -> bool:
    """Whether a convolution adds zeros around its input."""
    if node.op not in ("Conv", "ConvTranspose"):
        return False
    if node.attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return True
    return any(node.attrs.get("pads", ()))
