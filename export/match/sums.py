"""Nested sums as a flat list of terms, and the linear branch that computes each term."""

from __future__ import annotations

from dataclasses import dataclass

from edgedeploy.export.affine.chain import is_private
from edgedeploy.export.affine.reader import is_affine
from edgedeploy.export.match.kernels import is_linear
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    is_constant,
    is_standard,
    kept_names,
    producer,
)

SUMS = ("Add", "Sub", "Sum")
MAX_TERMS, MAX_ROW = 64, 16  # pairs of terms are tried


@dataclass(eq=False)
class Term:
    """One operand of a sum: operand `index` of `parent`, counted with `sign`."""

    tensor: Tensor
    sign: int
    parent: Node
    index: int

    @property
    def is_removable(self) -> bool:
        """Whether the parent can lose this operand: a Sub must keep its first."""
        return self.parent.op != "Sub" or self.index == 1


def is_sum(node: Node) -> bool:
    """Whether the node adds computed tensors; with a constant operand it is a shift."""
    return (
        node.op in SUMS
        and is_standard(node)
        and len(node.inputs) > 1
        and not any(is_constant(t) for t in node.inputs)
    )


def is_root(graph: Graph, node: Node) -> bool:
    """Whether the node is the last one of its sum."""
    if not is_sum(node):
        return False
    result = node.outputs[0]
    return not (is_private(result, kept_names(graph)) and is_sum(result.outputs[0]))


def terms(graph: Graph, root: Node) -> list[Term]:
    """The terms of the sum that ends in `root`; raises Skip beyond 64."""
    kept = kept_names(graph)
    found: list[Term] = []
    stack = [(root, 1)]
    while stack:
        node, sign = stack.pop()
        for index, tensor in enumerate(node.inputs):
            own = -sign if node.op == "Sub" and index == 1 else sign
            maker = producer(tensor)
            if maker is not None and is_sum(maker) and is_private(tensor, kept):
                stack.append((maker, own))
            else:
                found.append(Term(tensor, own, node, index))
        if len(found) > MAX_TERMS:
            raise Skip(f"the sum has more than {MAX_TERMS} terms")
    return found


def starts(graph: Graph, term: Term) -> list[tuple[Tensor, list[Node]]]:
    """(tensor, nodes from the tensor to the term) of each linear branch of a term, nearest first.

    Every node has one consumer; only scales and shifts, which cost nothing to repeat, may have more.
    """
    kept = kept_names(graph)
    tensor, row, shared = term.tensor, list[Node](), False
    found = [(tensor, list(row))]
    while len(row) < MAX_ROW:
        maker = producer(tensor)
        shared = shared or not is_private(tensor, kept)
        if maker is None or not is_standard(maker) or not is_linear(maker):
            break
        if shared and not is_affine(maker):
            break
        row.insert(0, maker)
        tensor = next(t for t in maker.inputs if not is_constant(t))
        found.append((tensor, list(row)))
    return found
