"""A few nodes as a polynomial of tensors, so that a formula is recognized in every notation.

x*(x+3)/6, (x/6)*(3+x) and x*x*0.1666667 + x*0.5 are all {x: 1/2, x^2: 1/6}. Passes ask whether a tensor is
a given polynomial of given leaves; only scalar constants count as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from edgedeploy.graphs.surgeon import (
    FLOATS,
    Graph,
    Node,
    Skip,
    Tensor,
    detach,
    dtype_name,
    insert,
    is_constant,
    is_standard,
    kept_names,
    producer,
)

MAX_DEPTH, MAX_DEGREE = 8, 8
# Constants are rounded once or twice before they are multiplied with each other.
ROUNDINGS = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-6, "float64": 1e-6}
Exponents: TypeAlias = tuple[int, ...]  # of the leaves, in their order
Coefficients: TypeAlias = dict[Exponents, float]
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Neg", "Sum"})


@dataclass
class Polynomial:
    """Nonzero coefficients of the leaves' monomials, and the nodes that compute the polynomial."""

    coefficients: Coefficients
    nodes: list[Node] = field(default_factory=list)

    def equals(self, wanted: Mapping[Exponents, float], dtype: str) -> bool:
        """Whether the coefficients are `wanted` up to the rounding of constants stored as `dtype`."""
        near = ROUNDINGS.get(dtype, 1e-6)
        return set(self.coefficients) == set(wanted) and all(
            math.isclose(self.coefficients[key], value, rel_tol=near) for key, value in wanted.items()
        )


def polynomial(tensor: Tensor, leaves: Sequence[Tensor], depth: int = MAX_DEPTH) -> Polynomial | None:
    """`tensor` as a polynomial of `leaves`; None if it is none."""
    for place, leaf in enumerate(leaves):
        if tensor is leaf:
            return Polynomial({tuple(int(place == i) for i in range(len(leaves))): 1.0})
    number = scalar(tensor)
    if number is not None:
        return Polynomial({(0,) * len(leaves): number} if number else {})
    node = producer(tensor)
    if depth == 0 or node is None or node.op not in ARITHMETIC or not is_standard(node):
        return None
    if _widened(node):
        return None
    parts = [polynomial(operand, leaves, depth - 1) for operand in node.inputs]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    coefficients = _combine(node.op, [part.coefficients for part in known])
    if coefficients is None:
        return None
    return Polynomial(coefficients, [node, *(inner for part in known for inner in part.nodes)])


def scalar(tensor: Tensor) -> float | None:
    """The value of a floating-point constant of one element, else None."""
    if not is_constant(tensor) or dtype_name(tensor) not in FLOATS or np.size(tensor.values) != 1:
        return None
    return float(np.asarray(tensor.values).astype(np.float64).reshape(()))


def below(tensor: Tensor, ops: frozenset[str] = ARITHMETIC, depth: int = 4) -> Iterator[Tensor]:
    """The tensor and its computed ancestors through `ops`, nearest first."""
    level, seen = [tensor], set[int]()
    for _ in range(depth + 1):
        following: list[Tensor] = []
        for item in level:
            if id(item) in seen or is_constant(item):
                continue
            seen.add(id(item))
            yield item
            maker = producer(item)
            if maker is not None and maker.op in ops:
                following.extend(maker.inputs)
        level = following


def above(tensor: Tensor, ops: frozenset[str] = ARITHMETIC, depth: int = 4) -> Iterator[Node]:
    """The descendants of the tensor through `ops`, nearest first."""
    level, seen = [tensor], set[int]()
    for _ in range(depth):
        following: list[Tensor] = []
        for item in level:
            for reader in item.outputs:
                if reader.op in ops and is_standard(reader) and id(reader) not in seen and reader.outputs:
                    seen.add(id(reader))
                    yield reader
                    following.append(reader.outputs[0])
        level = following


def fuse(
    graph: Graph, root: Node, inner: Sequence[Node], op: str, inputs: list[Tensor], **attrs: object
) -> int:
    """Replace `root` and `inner` by one `op`; raises Skip where `inner` must stay for other consumers."""
    require_interior(graph, root, inner)
    result = root.outputs[0]
    place = next(index for index, node in enumerate(graph.nodes) if node is root)
    detach(root)
    insert(graph, op, inputs, [result], at=place, **attrs)
    return 1


def require_interior(graph: Graph, root: Node, inner: Sequence[Node]) -> None:
    """Raise Skip unless `inner` and `root` are the only consumers of the outputs of `inner`."""
    gone = {id(root), *(id(node) for node in inner)}
    kept = kept_names(graph)
    for middle in (node.outputs[0] for node in inner if node is not root):
        if middle.name in kept or any(id(reader) not in gone for reader in middle.outputs):
            raise Skip(f"'{middle.name}' inside the formula is read elsewhere too")


def require_float(tensor: Tensor) -> str:
    """The tensor's dtype; raises Skip unless it is known to be floating-point."""
    name = dtype_name(tensor)
    if name not in FLOATS:
        raise Skip(f"'{tensor.name}' is {name or 'of unknown type'}")
    return name


def same_rank(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are known to be of equal rank."""
    return x.shape is not None and y.shape is not None and len(x.shape) == len(y.shape)


def _widened(node: Node) -> bool:
    """Whether a constant may raise the rank of the result."""
    ranks = [_rank(tensor) for tensor in node.inputs if not is_constant(tensor)]
    constants = [_rank(tensor) for tensor in node.inputs if is_constant(tensor)]
    return bool(constants) and max(constants) > max(ranks, default=0)


def _rank(tensor: Tensor) -> int:
    if is_constant(tensor):
        return int(np.asarray(tensor.values).ndim)
    return len(tensor.shape) if tensor.shape is not None else 0


def _combine(op: str, parts: list[Coefficients]) -> Coefficients | None:
    if op in ("Add", "Sum"):
        return _sum(parts, [1.0] * len(parts))
    if op == "Sub":
        return _sum(parts, [1.0, -1.0])
    if op == "Neg":
        return _sum(parts, [-1.0])
    if op == "Mul":
        return _times(parts[0], parts[1])
    number = _number(parts[1])
    if op == "Div":
        return _sum([parts[0]], [1 / number]) if number else None
    if number is None or number != int(number) or not 1 <= number <= MAX_DEGREE:
        return None
    result = parts[0]
    for _ in range(int(number) - 1):
        raised = _times(result, parts[0])
        if raised is None:
            return None
        result = raised
    return result


def _number(part: Coefficients) -> float | None:
    """The value of a constant polynomial, else None."""
    if not part:
        return 0.0
    return next(iter(part.values())) if len(part) == 1 and not any(next(iter(part))) else None


def _sum(parts: list[Coefficients], signs: list[float]) -> Coefficients:
    total: Coefficients = {}
    for part, sign in zip(parts, signs, strict=True):
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + sign * value
    return {key: value for key, value in total.items() if value}


def _times(left: Coefficients, right: Coefficients) -> Coefficients | None:
    total: Coefficients = {}
    for a, v in left.items():
        for b, w in right.items():
            key = tuple(i + j for i, j in zip(a, b, strict=True))
            if sum(key) > MAX_DEGREE:
                return None
            total[key] = total.get(key, 0.0) + v * w
    return {key: value for key, value in total.items() if value}
