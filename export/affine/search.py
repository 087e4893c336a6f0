"""Where a scale and a shift can go: a search without side effects, then all its edits at once.

Every tensor that is to change gets a scale and a shift. The rules of the operators around it say what follows
for their other tensors, until weights and constants have taken everything, or an operator blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from edgedeploy.core.operators import WEIGHTED
from edgedeploy.export.affine.absorbing import ABSORBING, FACTOR, OPAQUE, TERM, WEIGHTS
from edgedeploy.export.affine.commuting import COMMUTING
from edgedeploy.export.affine.layout import LAYOUT
from edgedeploy.export.affine.reader import ARITHMETIC, affine_of
from edgedeploy.export.affine.rule import Context, Edit, Option, Rule
from edgedeploy.export.affine.value import Affine, Array, agree, rank_of, require_fit, require_storable
from edgedeploy.graphs.surgeon import (
    Constant,
    Graph,
    Node,
    Skip,
    Tensor,
    bypass,
    constant,
    displace,
    has,
    has_bodies,
    insert,
    is_constant,
    is_standard,
    kept_names,
    producer,
    redirect,
    require_private,
    variable,
)

T = TypeVar("T")
BUDGET = 4000  # rules asked in one search: a region of some hundred operators, or a few dozen choices


def rule_of(node: Node) -> Rule:
    """The rule of a node; `OPAQUE`, which passes nothing, where there is none."""
    if not is_standard(node) or has_bodies(node) or not node.inputs:
        return OPAQUE
    if node.op in WEIGHTED:
        return WEIGHTS
    if node.op in ARITHMETIC and any(is_constant(tensor) for tensor in node.inputs):
        return TERM if node.op in ("Add", "Sub") else FACTOR
    return ABSORBING.get(node.op) or COMMUTING.get(node.op) or LAYOUT.get(node.op) or OPAQUE


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
    """One search, around one candidate y = scale * x + shift that is to become y = x.

    Args:
        candidate: the node, x and y its tensors.
        forward: move the value to the readers of y; otherwise to the operator that makes x, while other
            readers of x undo the change.
        alone: no tensor but the moved one may change.
    """

    def __init__(
        self, graph: Graph, candidate: Node, x: Tensor, *, forward: bool, alone: bool = False
    ) -> None:
        self.candidate, self.forward, self.alone, self.opset = candidate, forward, alone, int(graph.opset)
        y = candidate.outputs[0]
        self.moved, self.fixed = (y, x) if forward else (x, y)
        self.kept = kept_names(graph)
        self.left = BUDGET

    def plan(self, value: Affine) -> Plan:
        """The edits that replace the candidate's value; raises Skip that names the blocking operator."""
        state = _State()
        state.tensors[id(self.fixed)] = self.fixed
        state.known[id(self.fixed)] = Affine.identity(value.rank)
        self._assume(state, self.moved, value)
        state = self._solve(state)
        edits = [edit for node in state.touched.values() for edit in self._edits(state, node)]
        return Plan(tuple(edits), sum(edit.bias is not None for edit in edits), len(state.known))

    def _assume(self, state: _State, tensor: Tensor, value: Affine) -> None:
        """Enter the value of a tensor; raises Skip where it contradicts the known one."""
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
        if self.alone and tensor is not self.moved and not value.is_identity:
            raise Skip("would pass the scale or the shift on")
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
            options = _named(node, partial(rule_of(node).options, self._context(state, node)))
            if options:
                return self._first(state, node, options)
        for key, value in state.known.items():
            if value.shift is None:  # nothing asks for one
                tensor = state.tensors[key]
                return self._first(state, producer(tensor), [Option(((tensor, value.unshifted()),))])
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
                for index, tensor in enumerate(node.inputs):
                    value = state.known.get(id(tensor))
                    if rule.data and index >= rule.data and value is not None and not value.is_identity:
                        raise Skip(f"reads a changed tensor as input {index}")
                for tensor, value in list(rule.relate(self._context(state, node))):
                    self._assume(state, tensor, value)

            _named(node, follow)

    def _edits(self, state: _State, node: Node) -> list[Edit]:
        around = [
            value for t in (*node.inputs, *node.outputs) if (value := state.known.get(id(t))) is not None
        ]
        if all(value.is_identity for value in around) and id(node) not in state.biased:
            return []
        context = self._context(state, node)
        edits = _named(node, partial(rule_of(node).edit, context))
        for index, tensor in enumerate(node.inputs):
            value = state.known.get(id(tensor))
            if is_constant(tensor) and value is not None and not value.is_identity:
                edits = [*edits, Edit(node, {index: _applied(tensor, context.new(value))})]
        for edit in edits:
            _require_storable(edit)
        return edits

    def _context(self, state: _State, node: Node) -> Context:
        return Context(node, state.known, self.forward, self.opset, state.biased)


_MARK = "at "  # a reason that already names its node


def _named(node: Node, question: Callable[[], T]) -> T:
    """The answer to a question about a node; a Skip names the node."""
    try:
        return question()
    except Skip as skip:
        if str(skip).startswith(_MARK):
            raise
        raise Skip(f"{_MARK}{node.op} '{node.name}' {skip}") from None


def candidate_value(node: Node) -> tuple[int, Affine]:
    """(index of x, value of x's rank in compact form) of a node that the search can take out; raises Skip."""
    index, value = affine_of(node)
    x, y = node.inputs[index], node.outputs[0]
    value = value.broadcast(rank_of(x, y))
    if node.op in ARITHMETIC:
        require_fit(value, x)  # a constant that widens x cannot go
    return index, Affine.of(value.scale, value.shift)


def fold(graph: Graph, node: Node, into: Collection[str]) -> int:
    """Fold y = scale * x + shift into the operator right before or right behind it; raises Skip.

    The search with reach 1: the operator is of a type in `into`, the tensor between both has no other reader,
    and no other tensor changes.
    """
    index, value = candidate_value(node)
    x, y = node.inputs[index], node.outputs[0]
    reasons: list[str] = []
    for moved, neighbor in ((x, producer(x)), (y, y.outputs[0] if y.outputs else None)):
        if neighbor is None or neighbor.op not in into:
            continue
        try:
            require_private(graph, moved)
            plan = Search(graph, node, x, forward=moved is y, alone=True).plan(value)
        except Skip as skip:
            reasons.append(str(skip))
            continue
        if not plan.added:
            commit(graph, plan)
            bypass(graph, node, index)
            return 1
        reasons.append(f"{_MARK}{neighbor.op} '{neighbor.name}' has no bias to take the shift")
    raise Skip("; ".join(reasons) or "it stands beside no convolution or matrix product")


def fold_followers(graph: Graph, norm: Node) -> None:
    """Fold the scales and shifts right behind a norm into the norm, as many as fit."""
    while norm.outputs[0].outputs:
        reader = norm.outputs[0].outputs[0]
        try:
            fold(graph, reader, (norm.op,))
        except Skip:
            return


def commit(graph: Graph, plan: Plan) -> None:
    """Make the edits of a plan; new constants, because another node may read the old ones."""
    for edit in plan.edits:
        node = edit.node
        follow = next(tensor for tensor in node.inputs if is_constant(tensor))
        for index, values in edit.values.items():
            old = node.inputs[index] if has(node, index) else None
            name = old.name if old is not None else f"{follow.name}_bias"
            new = constant(graph, name, values, old.dtype if old is not None else follow.dtype)
            if index < len(node.inputs):
                node.inputs[index] = new
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


def _applied(tensor: Constant, new: Affine) -> Array:
    values = np.asarray(tensor.values, np.float64)
    changed = values * new.scale + new.b
    if changed.shape != values.shape:
        raise Skip(f"'{tensor.name}' would grow")
    return changed


def _require_storable(edit: Edit) -> None:
    """Raise Skip for values that the constants' own dtype cannot hold."""
    follow = next((tensor for tensor in edit.node.inputs if is_constant(tensor)), None)
    if follow is None:
        raise Skip(f"'{edit.node.name}' has no constant to follow")
    require_storable(follow.dtype, *edit.values.values(), *([edit.bias] if edit.bias is not None else []))
