"""An operator in the middle of a change of its tensors: what its rule is told, and what it may answer.

While a norm moves backwards, values are of the form new = s*old + t (it is the producers that change without
loss); while it moves forwards, old = s*new + t. Rules of operators that commute hold in both forms alike;
those that absorb ask for the one they need.
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
class Place:
    """A node and what is known of the tensors around it."""

    node: Node
    known: Mapping[int, Affine]
    forward: bool  # the form: old from new
    opset: int
    biased: frozenset[int] = frozenset()  # nodes that get an Add behind them

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.node.inputs[0]

    @property
    def y(self) -> Tensor:
        """The first output."""
        return self.node.outputs[0]

    def get(self, tensor: Tensor) -> Affine | None:
        """What is known of a tensor."""
        return self.known.get(id(tensor))

    def old(self, value: Affine) -> Affine:
        """p, q with old = p*new + q."""
        return value if self.forward else value.inverse()

    def new(self, value: Affine) -> Affine:
        """a, b with new = a*old + b."""
        return value.inverse() if self.forward else value

    def from_old(self, value: Affine) -> Affine:
        """A value p, q in the form of this search."""
        return value if self.forward else value.inverse()


@dataclass(frozen=True)
class Edit:
    """New constants of one node: by input place, with what else changes.

    Attributes:
        values: input place -> values, in float64.
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
    """One way to go on where a rule leaves a choice: values to assume, or an Add behind the node (cost 1)."""

    values: tuple[tuple[Tensor, Affine], ...] = ()
    bias: bool = False


def nothing(_: Place) -> list[Option]:
    """No choice."""
    return []


def unedited(_: Place) -> list[Edit]:
    """No constant of the node changes."""
    return []


@dataclass(frozen=True)
class Rule:
    """What an operator asks of the tensors around it.

    Attributes:
        relate: what follows from what is known; called again whenever more is; raises Skip where the operator
            does not commute with what is known.
        options: ways to go on when nothing follows any more; the first that works is taken.
        edit: the constants that change in the end.
        data: how many first inputs may change; 0 for all.
    """

    relate: Callable[[Place], Implied]
    options: Callable[[Place], list[Option]] = nothing
    edit: Callable[[Place], list[Edit]] = unedited
    data: int = 1


def both_ways(push: Callable[[Place, Affine], Affine], pull: Callable[[Place, Affine], Affine]) -> Rule:
    """The rule of one data input: output from input by `push`, input from output by `pull`."""

    def relate(at: Place) -> Implied:
        before, after = at.get(at.x), at.get(at.y)
        if before is not None:
            yield at.y, push(at, before)
        if after is not None:
            yield at.x, pull(at, after)

    return Rule(relate)


def variables(node: Node) -> list[Tensor]:
    """The inputs that are computed or fed."""
    return [tensor for tensor in node.inputs if not tensor.is_empty() and not is_constant(tensor)]


def ones(rank: int) -> Array:
    """A scale of 1."""
    return np.ones((1,) * rank)


def require_one_use(node: Node) -> None:
    """Raise Skip where a tensor enters twice."""
    names = [id(tensor) for tensor in variables(node)]
    if len(set(names)) != len(names):
        raise Skip("reads one tensor twice")
