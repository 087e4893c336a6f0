"""The parts that LayerNorm, RMSNorm and InstanceNorm decompose into: squares, a mean, a root, an affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedeploy.export.match.polynomial import below, polynomial, require_float, same_rank, scalar
from edgedeploy.export.match.shapes import is_static
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    dtype_name,
    has,
    is_constant,
    kept_names,
    producer,
    shape_of,
    value_of,
)

# The operators compute in float32 whatever the tensor; from float64 something would be lost.
_NARROW = ("float32", "float16", "bfloat16")


@dataclass
class Standardized:
    """y = d / sqrt(mean d^2 + epsilon) over the trailing axes, times scale, plus bias.

    Attributes:
        root: the node that computes y.
        d: what is divided; `nodes` are the others of the formula without those that make d.
        rank: number of axes of d.
        axis: the first of the axes, not negative.
        start: the first axis along which scale and bias vary: of those that are averaged, or the channels.
        varies: the sizes of these axes.
        scale, bias: of shape `varies`; ones and None where there are none.
    """

    root: Node
    d: Tensor
    nodes: list[Node]
    rank: int
    axis: int
    start: int
    varies: tuple[int, ...]
    epsilon: float
    scale: NDArray[np.float64]
    bias: NDArray[np.float64] | None = None


def standardized(
    graph: Graph, node: Node, affine: Sequence[str], *, per_channel: bool = False
) -> Standardized:
    """The formula around `node`, a Sqrt or a Pow, with what `affine` names of Mul and Add; raises Skip.

    Scale and bias vary along the averaged axes, or with `per_channel` along axis 1 in front of them.
    """
    power = 0.5 if node.op == "Sqrt" else scalar(node.inputs[1])
    if power not in (0.5, -0.5):
        raise Skip("it is not a square root")
    d, mean, epsilon, nodes = _mean_square(node.inputs[0])
    root = _quotient(node, d, power)
    if dtype_name(d) not in _NARROW:
        raise Skip(f"'{d.name}' is {dtype_name(d) or 'of unknown type'}")
    shape = shape_of(d, f"'{d.name}'")
    axis = _trailing(mean, len(shape))
    start, end = (1, 2) if per_channel else (axis, len(shape))
    varies = shape[start:end]
    if not is_static(varies):
        raise Skip("the sizes of the axes are not known")
    reciprocal = [reader for reader in node.outputs[0].outputs if reader.op == "Reciprocal"]
    nodes = [node, *reciprocal, *nodes]
    found = Standardized(root, d, nodes, len(shape), axis, start, tuple(varies), epsilon, np.ones(varies))
    _take_affine(graph, found, affine)
    return found


def squared(source: Tensor) -> tuple[Tensor, list[Node]]:
    """(x, nodes) with source = x^2; raises Skip where it is not a square."""
    for x in list(below(source, depth=1))[1:]:
        power = polynomial(source, [x], 2)
        if power is not None and same_rank(x, source) and power.equals({(2,): 1.0}, require_float(x)):
            return x, power.nodes
    raise Skip(f"'{source.name}' is not a square")


def axes_of(node: Node) -> list[int]:
    """The axes that a Reduce operator reduces, an attribute or an input; raises Skip if computed or all."""
    if has(node, 1):
        axes = [int(axis) for axis in np.ravel(value_of(node.inputs[1], "the axes"))]
    else:
        axes = [int(axis) for axis in node.attrs.get("axes", [])]
    if not axes:
        raise Skip("it reduces over all axes")
    return axes


def _mean_square(tensor: Tensor) -> tuple[Tensor, Node, float, list[Node]]:
    """(d, ReduceMean, epsilon, nodes) with tensor = mean(d^2) + epsilon."""
    for m in below(tensor, depth=1):
        mean, total = producer(m), polynomial(tensor, [m], 2)
        if mean is None or mean.op != "ReduceMean" or total is None:
            continue
        epsilon = total.coefficients.pop((0,), 0.0)
        if total.coefficients != {(1,): 1.0} or epsilon < 0 or not same_rank(m, tensor):
            break
        d, squares = squared(mean.inputs[0])
        if not mean.attrs.get("keepdims", 1):
            raise Skip("the mean drops its axes")
        return d, mean, epsilon, [*total.nodes, mean, *squares]
    raise Skip("it is not the root of a mean and an epsilon")


def _quotient(node: Node, d: Tensor, power: float) -> Node:
    """The node that computes d / root, or d times the root's reciprocal."""
    readers = list(node.outputs[0].outputs)
    if len(readers) != 1:
        raise Skip(f"the root has {len(readers)} readers")
    reader = readers[0]
    if reader.op == "Reciprocal" and power == 0.5:
        node, power, readers = reader, -0.5, list(reader.outputs[0].outputs)
        reader = readers[0] if len(readers) == 1 else reader
    wanted = "Div" if power == 0.5 else "Mul"
    operands = {id(operand) for operand in reader.inputs}
    if reader.op != wanted or operands != {id(d), id(node.outputs[0])}:
        raise Skip("it does not divide what it is the root of")
    if wanted == "Div" and reader.inputs[0] is not d:
        raise Skip("it is divided by what it is the root of")
    return reader


def _trailing(mean: Node, rank: int) -> int:
    """The first of the axes that `mean` averages; raises Skip unless they are the last of `rank`."""
    axes = sorted(axis % rank for axis in axes_of(mean)) if rank else []
    if not axes or axes != list(range(axes[0], rank)):
        raise Skip("the axes are not the trailing ones")
    return axes[0]


def _take_affine(graph: Graph, found: Standardized, affine: Sequence[str]) -> None:
    """Extend the formula by constants that multiply and are added, where they vary over its axes only."""
    for op in affine:
        result = found.root.outputs[0]
        reader = result.outputs[0] if len(result.outputs) == 1 else None
        if reader is None or reader.op != op or result.name in kept_names(graph):
            continue
        other = next((operand for operand in reader.inputs if operand is not result), result)
        if not is_constant(other) or dtype_name(other) != dtype_name(result):
            continue
        values = np.asarray(other.values).astype(np.float64)
        aligned = values.reshape(*[1] * (found.rank - values.ndim), *values.shape)
        end = found.start + len(found.varies)
        if values.ndim > found.rank or {*aligned.shape[: found.start], *aligned.shape[end:]} - {1}:
            continue
        try:
            spread = np.broadcast_to(aligned.reshape(aligned.shape[found.start : end]), found.varies)
        except ValueError:
            continue
        found.nodes.append(found.root)
        found.root = reader
        if op == "Mul":
            found.scale = spread
        else:
            found.bias = spread
