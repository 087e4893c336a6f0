"""A plan of Q/DQ: the tensors that get pairs, their readers, and the tensors that share a scale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.graphs.view import Edge, GraphView


@dataclass(frozen=True)
class Note:
    """The decision on a node; the reason is empty if the node follows the rule set."""

    node: str
    op: str
    reason: str = ""


@dataclass
class Plan:
    """Q/DQ pairs, and tensors that share a scale.

    Attributes:
        reads: tensor -> edges that read the quantized tensor; other edges read the float tensor.
        fully_quantized: tensors that all consumers and the graph output read quantized.
        weights: edge of a constant weight -> axis of output channels; None for one scale.
        biases: edge of a constant bias that becomes int32 -> activation, a factor of the bias's scale.
        leader: tensor -> tensor that gives the scale; no entry for a tensor of its own scale.
        quantized, excluded: notes on nodes.
    """

    reads: defaultdict[str, list[Edge]] = field(default_factory=lambda: defaultdict(list))
    fully_quantized: set[str] = field(default_factory=set)
    weights: dict[Edge, int | None] = field(default_factory=dict)
    biases: dict[Edge, str] = field(default_factory=dict)
    leader: dict[str, str] = field(default_factory=dict)
    quantized: list[Note] = field(default_factory=list)
    excluded: list[Note] = field(default_factory=list)

    @property
    def tensors(self) -> list[str]:
        """Every tensor that needs a range."""
        return list(dict.fromkeys((*self.reads, *sorted(self.fully_quantized))))

    def read(self, name: str, edge: Edge) -> None:
        """Let an edge read the quantized tensor."""
        if edge not in self.reads[name]:
            self.reads[name].append(edge)

    def leader_of(self, name: str) -> str:
        """The tensor that gives the scale, at the end of the chain of leaders."""
        while self.leader.get(name, name) != name:
            name = self.leader[name]
        return name

    def tie(self, first: str, second: str) -> None:
        """Let two tensors share a scale."""
        a, b = self.leader_of(first), self.leader_of(second)
        if a != b:
            self.leader[b] = a


@dataclass
class Planning:
    """Input of the placement rules, and the plan that they write.

    Attributes:
        view: the float graph.
        rules: rule set of the runtime.
        unusable: tensor that cannot be quantized -> reason.
        keep_float: label of a node that stays in float -> reason.
        weighted: indices of weighted operators in INT8.
    """

    view: GraphView
    rules: RuleSet
    unusable: Mapping[str, str]
    keep_float: Mapping[str, str]
    plan: Plan = field(default_factory=Plan)
    weighted: set[int] = field(default_factory=set)

    def is_kept(self, index: int) -> bool:
        """Whether `keep_float` names a node."""
        return self.view.label(index) in self.keep_float

    def is_usable(self, name: str) -> bool:
        """Whether a tensor can be quantized."""
        return self.view.is_activation(name) and name not in self.unusable

    def exclude(self, index: int, reason: str) -> None:
        """Note a node that stays in float."""
        self.plan.excluded.append(Note(self.view.label(index), self.view.op(index), reason))

    def quantize(self, index: int, reason: str = "") -> None:
        """Note a node that runs in INT8."""
        self.plan.quantized.append(Note(self.view.label(index), self.view.op(index), reason))
