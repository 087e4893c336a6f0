"""Which tensors get Quantize/DequantizeLinear, who reads them quantized, and which of them share a scale.

Pure analysis: the graph is not touched. Rule numbers (H, P) are those of docs/lint.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgedeploy.calibration.place.everywhere import quantize_outputs
from edgedeploy.calibration.place.exclusions import why_excluded
from edgedeploy.calibration.place.residual import skip_input
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.graphs.view import Edge, GraphView, attribute


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
        whole: tensors of which every reader, and the graph output, takes the quantized form.
        weights: edge of a constant weight -> output-channel axis, None for one scale.
        biases: edge of a constant bias that becomes int32 -> the activation whose scale it takes part of.
        leader: tensor -> the tensor whose scale it takes; itself where it stands alone.
        quantized, excluded: notes on nodes.
    """

    reads: defaultdict[str, list[Edge]] = field(default_factory=lambda: defaultdict(list))
    whole: set[str] = field(default_factory=set)
    weights: dict[Edge, int | None] = field(default_factory=dict)
    biases: dict[Edge, str] = field(default_factory=dict)
    leader: dict[str, str] = field(default_factory=dict)
    quantized: list[Note] = field(default_factory=list)
    excluded: list[Note] = field(default_factory=list)

    @property
    def tensors(self) -> list[str]:
        """Every tensor that needs a range."""
        return list(dict.fromkeys((*self.reads, *sorted(self.whole))))

    def read(self, name: str, edge: Edge) -> None:
        """Let an edge read the quantized form of a tensor; once is enough."""
        if edge not in self.reads[name]:
            self.reads[name].append(edge)

    def quantize(self, node: str, op: str, reason: str = "") -> None:
        self.quantized.append(Note(node, op, reason))

    def find(self, name: str) -> str:
        """The tensor that stands for all that share its scale."""
        while self.leader.get(name, name) != name:
            name = self.leader[name]
        return name

    def tie(self, first: str, second: str) -> None:
        """Give both the same scale."""
        a, b = self.find(first), self.find(second)
        if a != b:
            self.leader[b] = a


def make_plan(
    view: GraphView,
    rules: RuleSet,
    unusable: Mapping[str, str] | None = None,
    keep_float: Mapping[str, str] | None = None,
) -> Plan:
    """The plan for a graph.

    `unusable` names tensors that cannot be quantized, `keep_float` labels of nodes that shall not be; both
    with the reason.
    """
    plan = Plan()
    bad, kept = unusable or {}, keep_float or {}
    weighted = _weighted(view, rules, bad, kept, plan)
    if rules.outputs:
        quantize_outputs(view, rules, bad, kept, weighted, plan)
        return plan
    if rules.residual_add:
        _residuals(view, bad, kept, weighted, plan)
    if rules.norms:
        _norms(view, rules, bad, kept, weighted, plan)
    if rules.concat == "shared":
        _concats(view, bad, kept, plan)
    _pass_through(view, rules, plan)
    return plan


def _weighted(
    view: GraphView, rules: RuleSet, bad: Mapping[str, str], kept: Mapping[str, str], plan: Plan
) -> set[int]:
    """P1: Q/DQ on the activation and the weight of every weighted operator that is not excluded."""
    quantized = set()
    for index, node in enumerate(view.nodes):
        if node.op_type not in rules.weighted:
            continue
        name, edge = _before_pad(view, node.input[0], (index, 0))
        reason = why_excluded(view, index, rules) or kept.get(view.label(index)) or bad.get(name)
        if reason:
            plan.excluded.append(Note(view.label(index), node.op_type, reason))
            continue
        plan.read(name, edge)
        plan.weights[(index, 1)] = _axis(view, index, rules)
        if rules.bias == "int32" and len(node.input) > 2 and node.input[2] in view.constants:
            plan.biases[(index, 2)] = name
        plan.quantize(view.label(index), node.op_type)
        quantized.add(index)
    return quantized


def _axis(view: GraphView, index: int, rules: RuleSet) -> int | None:
    """H4: the output-channel axis, non-negative; None for one scale per tensor."""
    node = view.nodes[index]
    rank = len(view.constants[node.input[1]].dims)
    if attribute(node, "group", 1) != 1 and node.op_type in rules.grouped_per_tensor:
        return None
    if node.op_type == "MatMul" and rank != 2:
        return None
    axis = rules.weighted[node.op_type]
    if attribute(node, "transB", 0):
        axis = 1 - axis
    return axis % rank


def _before_pad(view: GraphView, name: str, edge: Edge) -> tuple[str, Edge]:
    """Q/DQ between Pad and Conv keeps them from fusing: quantize what goes into the Pad (TensorRT#2592)."""
    producer = view.producer.get(name)
    while producer is not None and view.nodes[producer].op_type == "Pad" and len(view.consumers[name]) == 1:
        source = view.nodes[producer].input[0]
        if not view.is_activation(source) or name in view.outputs:
            break
        name, edge = source, (producer, 0)
        producer = view.producer.get(name)
    return name, edge


def _residuals(
    view: GraphView, bad: Mapping[str, str], kept: Mapping[str, str], weighted: set[int], plan: Plan
) -> None:
    for index, node in enumerate(view.nodes):
        if node.op_type != "Add":
            continue
        if view.label(index) in kept:
            plan.excluded.append(Note(view.label(index), "Add", kept[view.label(index)]))
            continue
        name, reason = skip_input(view, index, weighted)
        if name is not None and name not in bad:
            plan.read(name, (index, list(node.input).index(name)))
            plan.quantize(view.label(index), "Add", f"skip input '{name}'")
        elif all(view.is_activation(entry) for entry in node.input):
            plan.excluded.append(Note(view.label(index), "Add", reason or bad.get(name or "", "")))


def _norms(
    view: GraphView,
    rules: RuleSet,
    bad: Mapping[str, str],
    kept: Mapping[str, str],
    weighted: set[int],
    plan: Plan,
) -> None:
    """P10: a norm reads the output of a quantized convolution as INT8, which the kernel then writes."""
    for index, node in enumerate(view.nodes):
        if node.op_type not in rules.norms or view.label(index) in kept:
            continue
        name, source = node.input[0], node.input[0]
        producer = view.producer.get(source)
        while producer is not None and view.nodes[producer].op_type in rules.pass_through:
            source = view.nodes[producer].input[0]
            producer = view.producer.get(source)
        if producer in weighted and view.nodes[producer or 0].op_type == "Conv" and name not in bad:
            plan.read(name, (index, 0))
            plan.quantize(view.label(index), node.op_type, "output of a convolution (P10)")


def _concats(view: GraphView, bad: Mapping[str, str], kept: Mapping[str, str], plan: Plan) -> None:
    """P7: inputs of a Concat that is read quantized share its output's scale, across chains of Concats."""
    for index in reversed(range(len(view.nodes))):
        node = view.nodes[index]
        if node.op_type != "Concat" or node.output[0] not in plan.reads or view.label(index) in kept:
            continue
        if all(view.is_activation(name) and name not in bad for name in node.input):
            for position, name in enumerate(node.input):
                plan.read(name, (index, position))
                plan.tie(node.output[0], name)
            plan.quantize(view.label(index), "Concat", "inputs share one scale")


def _pass_through(view: GraphView, rules: RuleSet, plan: Plan) -> None:
    """P5: tensors that differ by value-moving operators share a scale, so that Q commutes with those.

    Where the tensor before them is itself read quantized, they read that form: one Q serves all (P4).
    """
    roots: dict[str, str] = {}
    for name in list(plan.reads):
        producer = view.producer.get(name)
        root = name
        while producer is not None and view.nodes[producer].op_type in rules.pass_through:
            source = view.nodes[producer].input[0]
            if not view.is_activation(source):
                break
            root = source
            if root in plan.reads:
                plan.read(root, (producer, 0))
                break
            producer = view.producer.get(root)
        if root in plan.reads:
            plan.tie(root, name)
        elif root in roots:
            plan.tie(roots[root], name)
        else:
            roots[root] = name
