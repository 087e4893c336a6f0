"""Match the decomposition of LayerNorm, RMSNorm and InstanceNorm: squares, a mean and a root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.export.affine.search import fold_followers
from edgedeploy.export.match.polynomial import below, fuse, polynomial, require_float, same_rank, scalar
from edgedeploy.export.match.shapes import is_static
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    dtype_name,
    has,
    producer,
    shape_of,
    value_of,
)

if TYPE_CHECKING:
    from onnx_graphsurgeon.ir.tensor import Dim

# The operators compute in float32 for every dtype; float64 would lose precision.
_NARROW = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Standardized:
    """y = d / sqrt(mean d^2 + epsilon) over the trailing axes.

    Attributes:
        root: the node that computes y.
        d: the numerator; `shape` is its shape.
        nodes: the other nodes of the formula, except those that compute d.
        axis: the first of the averaged axes, not negative.
    """

    root: Node
    d: Tensor
    shape: Sequence[Dim]
    nodes: list[Node]
    axis: int
    epsilon: float

    @property
    def rank(self) -> int:
        """The number of axes of d."""
        return len(self.shape)

    @property
    def centering(self) -> tuple[Node, Node] | None:
        """(Sub, ReduceMean) of d = x - mean x; None for another d."""
        center = producer(self.d)
        mean = producer(center.inputs[1]) if center is not None and center.op == "Sub" else None
        if center is None or mean is None or mean.op != "ReduceMean":
            return None
        return (center, mean) if mean.inputs[0] is center.inputs[0] else None

    def require_centered(self) -> tuple[Node, Node]:
        """`centering` over the axes of the variance; raises Skip for any other d."""
        if self.centering is None:
            raise Skip("what it normalizes is not x less the mean of x")
        center, mean = self.centering
        axes = sorted(axis % self.rank for axis in axes_of(mean))
        if axes != list(range(self.axis, self.rank)) or not mean.attrs.get("keepdims", 1):
            raise Skip("mean and variance are of different axes")
        return center, mean


def standardized(node: Node) -> Standardized:
    """The formula around `node`, a Sqrt or a Pow; raises Skip for another formula."""
    power = 0.5 if node.op == "Sqrt" else scalar(node.inputs[1])
    if power not in (0.5, -0.5):
        raise Skip("it is not a square root")
    d, mean, epsilon, nodes = _mean_square(node.inputs[0])
    root = _quotient(node, d, power)
    if dtype_name(d) not in _NARROW:
        raise Skip(f"'{d.name}' is {dtype_name(d) or 'of unknown type'}")
    reciprocal = [reader for reader in node.outputs[0].outputs if reader.op == "Reciprocal"]
    shape = shape_of(d, f"'{d.name}'")
    return Standardized(root, d, shape, [node, *reciprocal, *nodes], _trailing(mean, len(shape)), epsilon)


def fuse_norm(
    graph: Graph, found: Standardized, op: str, x: Tensor, center: Sequence[Node], **attrs: object
) -> int:
    """Replace the formula by one norm of x that takes the constants after it as scale and shift; raises Skip.

    The scale varies along the averaged axes; for InstanceNormalization along axis 1.
    """
    sizes = found.shape[1:2] if op == "InstanceNormalization" else found.shape[found.axis :]
    if not is_static(sizes):
        raise Skip("the sizes of the axes are not known")
    result = found.root.outputs[0]
    inputs = [x, constant(graph, f"{result.name}_scale", np.ones(sizes), x.dtype)]
    if op == "InstanceNormalization":
        inputs.append(constant(graph, f"{result.name}_bias", np.zeros(sizes), x.dtype))
    hits = fuse(graph, found.root, [*found.nodes, *center], op, inputs, epsilon=found.epsilon, **attrs)
    norm = producer(result)
    assert norm is not None  # noqa: S101  just inserted
    fold_followers(graph, norm)
    return hits


def squared(source: Tensor) -> tuple[Tensor, list[Node]]:
    """(x, nodes) with source = x^2; raises Skip where it is not a square."""
    for x in list(below(source, depth=1))[1:]:
        power = polynomial(source, [x], 2)
        if power is not None and same_rank(x, source) and power.equals({(2,): 1.0}, require_float(x)):
            return x, power.nodes
    raise Skip(f"'{source.name}' is not a square")


def axes_of(node: Node) -> list[int]:
    """The axes that a Reduce operator reduces; raises Skip for computed axes and for all axes."""
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
    """The first axis that `mean` averages; raises Skip unless it averages the trailing axes."""
    axes = sorted(axis % rank for axis in axes_of(mean)) if rank else []
    if not axes or axes != list(range(axes[0], rank)):
        raise Skip("the axes are not the trailing ones")
    return axes[0]
