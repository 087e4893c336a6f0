"""Plan Q/DQ: quantized tensors, edges that read them, and shared scales. The graph stays unchanged.

Rule numbers (H, P) are those of docs/lint.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgedeploy.calibration.place.exclusions import why_excluded
from edgedeploy.calibration.place.operator_outputs import quantize_outputs
from edgedeploy.calibration.place.plan import Plan, Planning
from edgedeploy.calibration.place.residual import skip_input
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.graphs.view import Edge, GraphView


def make_plan(
    view: GraphView,
    rules: RuleSet,
    unusable: Mapping[str, str] | None = None,
    keep_float: Mapping[str, str] | None = None,
) -> Plan:
    """The plan for a graph; `unusable` and `keep_float` as in `Planning`."""
    planning = Planning(view, rules, unusable or {}, keep_float or {})
    _weighted(planning)
    if rules.outputs:
        quantize_outputs(planning)
        return planning.plan
    if rules.residual_add:
        _residuals(planning)
    if rules.norms:
        _norms(planning)
    if rules.concat == "shared":
        _concats(planning)
    _pass_through(planning)
    return planning.plan


def _weighted(planning: Planning) -> None:
    """P1: Q/DQ on the activation and the weight of every weighted operator that is not excluded."""
    view, rules, plan = planning.view, planning.rules, planning.plan
    for index, node in enumerate(view.nodes):
        if node.op_type not in rules.weighted:
            continue
        name, edge = _before_pad(view, node.input[0], (index, 0))
        kept = planning.keep_float.get(view.label(index))
        reason = why_excluded(view, index, rules) or kept or planning.unusable.get(name)
        if reason:
            planning.exclude(index, reason)
            continue
        plan.read(name, edge)
        plan.weights[(index, 1)] = rules.output_axis(node, len(view.constants[node.input[1]].dims))
        if rules.bias == "int32" and len(node.input) > 2 and node.input[2] in view.constants:
            plan.biases[(index, 2)] = name
        planning.quantize(index)
        planning.weighted.add(index)


def _before_pad(view: GraphView, name: str, edge: Edge) -> tuple[str, Edge]:
    """Quantize the input of a Pad: Q/DQ between Pad and Conv prevents their fusion (TensorRT#2592)."""
    producer = view.producer.get(name)
    while producer is not None and view.nodes[producer].op_type == "Pad" and len(view.consumers[name]) == 1:
        source = view.nodes[producer].input[0]
        if not view.is_activation(source) or name in view.outputs:
            break
        name, edge = source, (producer, 0)
        producer = view.producer.get(name)
    return name, edge


def _residuals(planning: Planning) -> None:
    """P3: an Add that can fuse into a quantized operator reads its skip input quantized."""
    view = planning.view
    for index, node in enumerate(view.nodes):
        if node.op_type != "Add":
            continue
        if planning.is_kept(index):
            planning.exclude(index, planning.keep_float[view.label(index)])
            continue
        name, reason = skip_input(view, index, planning.weighted)
        if name is not None and name not in planning.unusable:
            planning.plan.read(name, (index, list(node.input).index(name)))
            planning.quantize(index, f"skip input '{name}'")
        elif all(view.is_activation(entry) for entry in node.input):
            planning.exclude(index, reason or planning.unusable.get(name or "", ""))


def _norms(planning: Planning) -> None:
    """P10: a norm reads the output of a quantized convolution in INT8, so the convolution writes INT8."""
    view, rules = planning.view, planning.rules
    for index, node in enumerate(view.nodes):
        if node.op_type not in rules.norms or planning.is_kept(index):
            continue
        name = node.input[0]
        producer = view.maker(name)
        while view.op(producer) in rules.pass_through:
            producer = view.maker(view.nodes[producer].input[0])
        convolution = producer in planning.weighted and view.op(producer) == "Conv"
        if convolution and name not in planning.unusable:
            planning.plan.read(name, (index, 0))
            planning.quantize(index, "output of a convolution (P10)")


def _concats(planning: Planning) -> None:
    """P7: the inputs of a Concat share the scale of its quantized output, across chains of Concat."""
    view, plan = planning.view, planning.plan
    for index in reversed(range(len(view.nodes))):
        node = view.nodes[index]
        if node.op_type != "Concat" or node.output[0] not in plan.reads or planning.is_kept(index):
            continue
        if all(planning.is_usable(name) for name in node.input):
            for position, name in enumerate(node.input):
                plan.read(name, (index, position))
                plan.tie(node.output[0], name)
            planning.quantize(index, "inputs share one scale")


def _pass_through(planning: Planning) -> None:
    """P5: input and output of value-moving operators share a scale, so that Q commutes with the operators.

    If the input has other quantized consumers, the operators read the same quantized tensor (P4).
    """
    view, plan = planning.view, planning.plan
    roots: dict[str, str] = {}
    for name in list(plan.reads):
        producer = view.producer.get(name)
        root = name
        while producer is not None and view.nodes[producer].op_type in planning.rules.pass_through:
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
