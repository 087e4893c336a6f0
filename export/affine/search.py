"""Where a scale and a shift can go: a search without side effects, then all its edits at once.

Every tensor that is to change gets a scale and a shift; the rules of the operators around it say what follows
for their other tensors, until weighted operators and constants have taken everything, or something blocks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgedeploy.export.affine.fold import WEIGHTED, of_batchnorm
from edgedeploy.export.affine.layout import LAYOUT
from edgedeploy.export.affine.linear import factor, normalization, opaque, output_norm, term, weighted
from edgedeploy.export.affine.place import Edit, Option, Place, Rule, ones
from edgedeploy.export.affine.rules import COMMUTING
from edgedeploy.export.affine.value import Affine, Array, agree, rank_of, require_fit
from edgedeploy.graphs.surgeon import (
    Constant,
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    displace,
    has_bodies,
    insert,
    is_constant,
    is_standard,
    kept_names,
    numpy_dtype,
    producer,
    redirect,
    variable,
)

BUDGET = 4000  # rules asked in one search: a region of some hundred operators, or a few dozen choices
ABSORBING: dict[str, Rule] = {
    "weighted": weighted(),
    "BatchNormalization": normalization(of_batchnorm),
    "factor": factor(),
    "term": term(),
    "LayerNormalization": output_norm(),
    "InstanceNormalization": output_norm(),
    "opaque": opaque(),
}


def rule_of(node: Node) -> Rule:
    """The rule of a node; that of operators which nothing passes for all that have none."""
    if not is_standard(node) or has_bodies(node) or not node.inputs:
        return ABSORBING["opaque"]
    if node.op in WEIGHTED and is_constant(node.inputs[1]):
        return ABSORBING["weighted"]
    if node.op in ("BatchNormalization", "LayerNormalization", "InstanceNormalization"):
        return ABSORBING[node.op]
    if node.op in ("Add", "Sub", "Mul", "Div") and any(is_constant(tensor) for tensor in node.inputs):
        return ABSORBING["term" if node.op in ("Add", "Sub") else "factor"]
    return COMMUTING.get(node.op) or LAYOUT.get(node.op) or ABSORBING["opaque"]


@dataclass(frozen=True)
class Plan:
    """Edits that leave every output as it was once the candidate is gone.

    Attributes:
        edits: new constants, per node.
        added: Add nodes that come in.
        size: tensors that change.
    """

    edits: tuple[Edit, ...]
    added: int
    size: int


@dataclass
class _State:
    known: dict[int, Affine] = field(default_factory=dict)
    tensors: dict[int, Tensor] = field(default_factory=dict)
    touched: dict[int, Node] = field(default_factory=dict)
    queue: deque[Node | None] = field(default_factory=deque)
    biased: frozenset[int] = frozenset()

    def copy(self) -> _State:
        return _State(
            dict(self.known), dict(self.tensors), dict(self.touched), deque(self.queue), self.biased
        )


class Search:
    """One search, around one candidate that is to become y = x.

    Args:
        candidate: computes y = s*x + t.
        x, y: its tensors.
        forward: move it to the readers of y; otherwise to what makes x, and take it back at other readers.
    """

    def __init__(self, graph: Graph, candidate: Node, x: Tensor, y: Tensor, *, forward: bool) -> None:
        self.candidate, self.forward, self.opset = candidate, forward, int(graph.opset)
        self.moved, self.fixed = (y, x) if forward else (x, y)
        self.kept = kept_names(graph)
        self.left = BUDGET

    def plan(self, value: Affine) -> Plan:
        """Where s and t of the candidate go; raises Skip naming what stands in the way."""
        state = _State()
        state.tensors[id(self.fixed)] = self.fixed
        state.known[id(self.fixed)] = Affine.identity(len(rank_of(self.fixed)))
        self._assume(state, self.moved, value)
        state = self._solve(state)
        edits = [edit for node in state.touched.values() for edit in self._edits(state, node)]
        return Plan(tuple(edits), sum(edit.bias is not None for edit in edits), len(state.known))

    def _assume(self, state: _State, tensor: Tensor, value: Affine) -> None:
        """Enter what follows for a tensor; raises Skip where it contradicts what is known."""
        before = state.known.get(id(tensor))
        is_open = value.is_unscaled and value.shift is None
        outside = tensor.name in self.kept or (producer(tensor) is None and not is_constant(tensor))
        if outside and not value.is_identity and not is_open:
            raise Skip(f"'{tensor.name}' is an input or output of the graph")
        if outside:
            value = Affine.identity(value.rank)
        if before is not None:
            _require_same(tensor, before, value)
            if before.shift is not None or value.shift is None:
                return
            value = before.with_shift(value.shift)
        require_fit(value, tensor)
        state.known[id(tensor)], state.tensors[id(tensor)] = value, tensor
        maker = producer(tensor)
        around = [] if is_constant(tensor) else [*tensor.outputs, *([maker] if maker is not None else [])]
        for node in around:
            if node is self.candidate:
                continue
            if not value.is_identity:
                state.touched[id(node)] = node
            if id(node) in state.touched:
                state.queue.append(node)

    def _solve(self, state: _State) -> _State:
        self._propagate(state)
        for node in state.touched.values():
            options = self._ask(node, lambda n=node: rule_of(n).options(self._place(state, n)))
            if options:
                return self._first(state, node, options)
        for key, value in state.known.items():
            if value.shift is None:  # nothing asks for one
                tensor = state.tensors[key]
                return self._first(state, producer(tensor), [_unshifted(tensor, value)])
        return state

    def _first(self, state: _State, node: Node | None, options: list[Option]) -> _State:
        reason: Skip | None = None
        for option in options:
            branch = state.copy()
            try:
                for tensor, value in option.values:
                    self._assume(branch, tensor, value)
                if option.bias:
                    branch.biased |= {id(node)}
                branch.queue.append(node)
                return self._solve(branch)
            except Skip as skip:
                reason = reason or skip
        assert reason is not None  # noqa: S101  there is at least one option
        raise reason

    def _propagate(self, state: _State) -> None:
        while state.queue:
            node = state.queue.popleft()
            if node is None or node is self.candidate:
                continue
            self.left -= 1
            if self.left < 0:
                raise Skip(f"the search ends after {BUDGET} steps")
            rule = rule_of(node)

            def follow(node: Node = node, rule: Rule = rule) -> None:
                for place, tensor in enumerate(node.inputs):
                    value = state.known.get(id(tensor))
                    if rule.data and place >= rule.data and value is not None and not value.is_identity:
                        raise Skip(f"reads a changed tensor as input {place}")
                for tensor, value in list(rule.relate(self._place(state, node))):
                    self._assume(state, tensor, value)

            self._ask(node, follow)

    def _edits(self, state: _State, node: Node) -> list[Edit]:
        around = [
            value for t in (*node.inputs, *node.outputs) if (value := state.known.get(id(t))) is not None
        ]
        if all(value.is_identity for value in around) and id(node) not in state.biased:
            return []
        place = self._place(state, node)
        edits: list[Edit] = self._ask(node, lambda: rule_of(node).edit(place))
        for index, tensor in enumerate(node.inputs):
            value = state.known.get(id(tensor))
            if is_constant(tensor) and value is not None and not value.is_identity:
                new = place.new(value)
                edits = [*edits, Edit(node, {index: _applied(tensor, new)})]
        for edit in edits:
            _require_storable(edit)
        return edits

    def _place(self, state: _State, node: Node) -> Place:
        return Place(node, state.known, self.forward, self.opset, state.biased)

    def _ask(self, node: Node, question: Any) -> Any:
        try:
            return question()
        except Skip as skip:
            if str(skip).startswith(_MARK):
                raise
            raise Skip(f"{_MARK}{node.op} '{node.name}' {skip}") from None


_MARK = "at "  # a reason that already names its node


def commit(graph: Graph, plan: Plan) -> None:
    """Make the edits of a plan, on constants of their own."""
    for edit in plan.edits:
        node = edit.node
        follow = next(tensor for tensor in node.inputs if is_constant(tensor))
        for place, values in edit.values.items():
            old = (
                node.inputs[place] if place < len(node.inputs) and not node.inputs[place].is_empty() else None
            )
            name = old.name if old is not None else f"{follow.name}_bias"
            new = constant(graph, name, values, old.dtype if old is not None else follow.dtype)
            if place < len(node.inputs):
                node.inputs[place] = new
            else:
                node.inputs.append(new)
        node.attrs.update(edit.attrs)
        node.op = edit.op or node.op
        if edit.bias is not None:
            y = node.outputs[0]
            middle = variable(graph, f"{y.name}_unbiased", y.dtype, y.shape)
            bias = constant(graph, f"{follow.name}_bias", edit.bias, follow.dtype)
            displace(y, middle)
            redirect(middle, y)
            insert(graph, "Add", [middle, bias], [y])


def _require_same(tensor: Tensor, before: Affine, value: Affine) -> None:
    """Raise Skip where what follows contradicts what is known."""
    if before.rank != value.rank or not agree(before.scale, value.scale):
        raise Skip(f"'{tensor.name}' would need two scales")
    if before.shift is not None and value.shift is not None and not agree(before.shift, value.shift):
        raise Skip(f"'{tensor.name}' would need two shifts")


def _unshifted(tensor: Tensor, value: Affine) -> Option:
    return Option(((tensor, value.with_shift(np.zeros_like(ones(value.rank)))),))


def _applied(tensor: Constant, new: Affine) -> Array:
    values = np.asarray(tensor.values, np.float64)
    assert new.shift is not None  # noqa: S101  a search ends with every shift decided
    changed = values * new.scale + new.shift
    if changed.shape != values.shape:
        raise Skip(f"'{tensor.name}' would grow")
    return changed


def _require_storable(edit: Edit) -> None:
    """Raise Skip for values that the constants' own dtype cannot hold."""
    follow = next((tensor for tensor in edit.node.inputs if is_constant(tensor)), None)
    if follow is None:
        raise Skip(f"'{edit.node.name}' has no constant to follow")
    for values in (*edit.values.values(), *([edit.bias] if edit.bias is not None else [])):
        with np.errstate(over="ignore"):
            if not np.isfinite(values.astype(numpy_dtype(follow.dtype))).all():
                raise Skip(f"the constants of '{edit.node.name}' would not be finite")
