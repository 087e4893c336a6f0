"""What an operator says about scales and shifts of the tensors around it, and how its constants follow.

While a scale and a shift move backwards, values have the form new = a * old + b (weights that make a tensor
change without loss); while they move forwards, old = p * new + q. Rules of operators that commute with both
hold in either form; rules of operators that absorb ask for the form that they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgedeploy.export.affine.value import Affine, Array
from edgedeploy.graphs.surgeon import Node, Skip, Tensor, is_constant

Implied: TypeAlias = Iterable[tuple[Tensor, Affine]]


@dataclass(frozen=True)
class Context:
    """A node, and the values that the search has found for the tensors around it.

    Attributes:
        known: values by identity of the tensor.
        forward: the form of the values: old from new.
        opset: of the graph.
        biased: nodes, by identity, that get an Add behind them.
    """

    node: Node
    known: Mapping[int, Affine]
    forward: bool
    opset: int
    biased: frozenset[int] = frozenset()

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.node.inputs[0]

    @property
    def y(self) -> Tensor:
        """The first output."""
        return self.node.outputs[0]

    def get(self, tensor: Tensor) -> Affine | None:
        """The value of a tensor, None where there is none yet."""
        return self.known.get(id(tensor))

    def old(self, value: Affine) -> Affine:
        """(p, q) with old = p * new + q; the same turns such a pair into the form of this search."""
        return value if self.forward else value.inverse()

    def new(self, value: Affine) -> Affine:
        """(a, b) with new = a * old + b."""
        return value.inverse() if self.forward else value


@dataclass(frozen=True)
class Edit:
    """New constants of one node.

    Attributes:
        values: index of the input -> values, in float64.
        op, attrs: a new operator type, attributes to set.
        bias: values of an Add to put behind the node.
    """

    node: Node
    values: dict[int, NDArray[np.float64]]
    op: str | None = None
    attrs: dict[str, float] = field(default_factory=dict)
    bias: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Option:
    """One way to go on where a rule leaves a choice: values to assume, or an Add behind the node."""

    values: tuple[tuple[Tensor, Affine], ...] = ()
    bias: bool = False


def no_options(_: Context) -> list[Option]:
    """No choice."""
    return []


def no_edits(_: Context) -> list[Edit]:
    """No constant of the node changes."""
    return []


@dataclass(frozen=True)
class Rule:
    """How one type of operator relates the values of the tensors around it.

    Attributes:
        relate: the values that follow from those known; called again whenever more are known; raises Skip
            where the operator does not commute with what is known.
        options: ways to go on when nothing follows any more; the search takes the first that works.
        edit: the constants that change once all values are known.
        data: how many first inputs may change; 0 for all.
    """

    relate: Callable[[Context], Implied]
    options: Callable[[Context], list[Option]] = no_options
    edit: Callable[[Context], list[Edit]] = no_edits
    data: int = 1


def both_ways(push: Callable[[Context, Affine], Affine], pull: Callable[[Context, Affine], Affine]) -> Rule:
    """The rule of one data input: output from input by `push`, input from output by `pull`."""

    def relate(ctx: Context) -> Implied:
        before, after = ctx.get(ctx.x), ctx.get(ctx.y)
        if before is not None:
            yield ctx.y, push(ctx, before)
        if after is not None:
            yield ctx.x, pull(ctx, after)

    return Rule(relate)


def ones(rank: int) -> Array:
    """A scale of 1."""
    return np.ones((1,) * rank)


def require_one_use(node: Node) -> None:
    """Raise Skip where a computed tensor is more than one input."""
    computed = [id(tensor) for tensor in node.inputs if not tensor.is_empty() and not is_constant(tensor)]
    if len(set(computed)) != len(computed):
        raise Skip("reads one tensor twice")
