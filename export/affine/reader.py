"""The one reader of y = scale * x + shift: BatchNormalization, and Mul, Div, Add, Sub with a constant."""

from __future__ import annotations

import numpy as np

from edgedeploy.export.affine.value import Affine, Array, rank_of
from edgedeploy.graphs.surgeon import Node, Skip, float_of, is_constant, is_standard

ARITHMETIC = ("Mul", "Div", "Add", "Sub")
AFFINE = (*ARITHMETIC, "BatchNormalization")
EPSILON = 1e-5  # BatchNormalization's default


def affine_of(node: Node) -> tuple[int, Affine]:
    """(index of input x, value) of a node that computes y = scale * x + shift by constants.

    The arrays broadcast against x as the constants of the node do; a constant that widens x keeps its shape.
    Raises Skip for any other node, for a division by x or by 0, and for a norm in training mode.
    """
    if node.op not in AFFINE or not is_standard(node):
        raise Skip(f"{node.op} is no scale and shift by constants")
    if node.op == "BatchNormalization":
        column = (-1, *[1] * (rank_of(node.inputs[0], node.outputs[0]) - 2))
        scale, shift = batchnorm(node)
        return 0, Affine(scale.reshape(column), shift.reshape(column))
    index, k = constant_operand(node)
    one, zero = np.ones(k.shape), np.zeros(k.shape)
    if node.op == "Mul":
        return 1 - index, Affine(k, zero)
    if node.op == "Add":
        return 1 - index, Affine(one, k)
    if node.op == "Sub":
        return (0, Affine(one, -k)) if index == 1 else (1, Affine(-one, k))
    if index == 0:
        raise Skip("divides by the tensor")
    if not np.all(k):
        raise Skip("divides by 0")
    return 0, Affine(1 / k, zero)


def is_affine(node: Node) -> bool:
    """Whether `affine_of` reads the node."""
    try:
        affine_of(node)
    except Skip:
        return False
    return True


def constant_operand(node: Node) -> tuple[int, Array]:
    """(index, values) of the one constant of a binary operator; raises Skip unless just one is constant."""
    indices = [index for index in (0, 1) if is_constant(node.inputs[index])]
    if len(indices) != 1:
        raise Skip("neither operand is a constant" if not indices else "both operands are constants")
    return indices[0], float_of(node.inputs[indices[0]], "the operand")


def batchnorm(node: Node) -> tuple[Array, Array]:
    """(scale, shift), each per channel, of a BatchNormalization in inference; raises Skip in training."""
    if node.attrs.get("training_mode", 0) or sum(not out.is_empty() for out in node.outputs) > 1:
        raise Skip("it is in training mode")
    if not node.attrs.get("spatial", 1):
        raise Skip("it normalizes every position by itself (spatial=0)")
    names = ("scale", "shift", "mean", "variance")
    gamma, beta, mean, var = (float_of(t, n) for t, n in zip(node.inputs[1:5], names, strict=True))
    scale = gamma / np.sqrt(var + float(node.attrs.get("epsilon", EPSILON)))
    return scale, beta - mean * scale


def batchnorm_parameters(node: Node, scale: Array, shift: Array) -> tuple[Array, Array]:
    """(gamma, beta) with which a BatchNormalization of the same statistics computes scale * x + shift."""
    mean, variance = (float_of(node.inputs[index], "a statistic") for index in (3, 4))
    return scale * np.sqrt(variance + float(node.attrs.get("epsilon", EPSILON))), shift + scale * mean
