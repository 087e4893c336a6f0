"""A plan of Q/DQ: the tensors that get pairs, their readers, and the tensors that share a scale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.graphs.view import Edge, GraphView


@dataclass(frozen=True)
class Note:
    """What was decided about a node; the reason is empty where it follows the rule set."""

    node: str
    op: str
    reason: str = ""


@dataclass
class Plan:
    """Where Q/DQ pairs go.

    Attributes:
        reads: tensor -> edges that read its quantized form; the other readers keep the float one.
        fully_quantized: tensors of which every reader, and the graph output, takes the quantized form.
        weights: edge of a constant weight -> output-channel axis, None for one scale.
        biases: edge of a constant bias that becomes int32 -> the activation whose scale it takes part of.
        leader: tensor -> the tensor whose scale it takes; itself where it stands alone.
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
        """Let an edge read the quantized form of a tensor; once is enough."""
        if edge not in self.reads[name]:
            self.reads[name].append(edge)

    def leader_of(self, name: str) -> str:
        """The tensor whose scale a tensor takes, at the end of the chain of leaders."""
        while self.leader.get(name, name) != name:
            name = self.leader[name]
        return name

    def tie(self, first: str, second: str) -> None:
        """Give both the same scale."""
        a, b = self.leader_of(first), self.leader_of(second)
        if a != b:
            self.leader[b] = a


@dataclass
class Planning:
    """What the rules of placement read, and the plan that they write.

    Attributes:
        view: of the float graph.
        rules: of the runtime.
        unusable: tensors that cannot be quantized -> why.
        keep_float: labels of nodes that shall stay in float -> why.
        weighted: weighted operators that run in INT8, by index.
    """

    view: GraphView
    rules: RuleSet
    unusable: Mapping[str, str]
    keep_float: Mapping[str, str]
    plan: Plan = field(default_factory=Plan)
    weighted: set[int] = field(default_factory=set)

    def is_kept(self, index: int) -> bool:
        """Whether a node shall stay in float."""
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
