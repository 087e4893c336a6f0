"""Q/DQ around every operator, as ONNX Runtime's CPU kernels want it.

QLinearConv and its kin need the output's scale too, and an int32 bias; whatever stands between two of them
without Q/DQ of its own throws the chain back to float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnx import TensorProto

from edgedeploy.calibration.place.ruleset import EVERY, RuleSet
from edgedeploy.graphs.view import GraphView

if TYPE_CHECKING:
    from edgedeploy.calibration.place.plan import Plan

# Operators whose constant operands are quantized too where every operator is.
WITH_CONSTANTS = frozenset({"Add", "Concat", "Div", "MatMul", "Max", "Min", "Mul", "PRelu", "Sub"})


def quantize_outputs(
    view: GraphView,
    rules: RuleSet,
    bad: Mapping[str, str],
    kept: Mapping[str, str],
    weighted: set[int],
    plan: Plan,
) -> None:
    """Extend a plan of weighted operators to their outputs and to the operators of `rules.around`.

    Nodes whose label is in `kept` stay in float.
    """
    absorbed = {
        reader
        for index, node in enumerate(view.nodes)
        if index in weighted or rules.is_around(node.op_type)
        for name in node.output
        if (reader := _absorbing(view, name, rules)) is not None
    }
    for index in sorted(weighted):
        name = _fused_output(view, view.nodes[index].output[0], rules)
        if view.is_activation(name) and name not in bad:
            plan.whole.add(name)
    # In graph order, so that a chain of operators is followed from its quantized start.
    for index, node in enumerate(view.nodes):
        left = not rules.is_around(node.op_type) or index in weighted or _left(view, index, rules)
        if left or view.label(index) in kept:
            continue
        outputs = [name for name in node.output if name]
        if node.op_type not in rules.same_scale and len(outputs) == 1:
            outputs = [_fused_output(view, outputs[0], rules)]
        # What else such an operator reads are shapes and indices.
        data = [name for name in view.data_inputs(index) if name in view.float32]
        if not data or any(not view.is_activation(name) or name in bad for name in (*data, *outputs)):
            continue
        reached = EVERY in rules.around or any(name in plan.whole or name in plan.reads for name in data)
        if reached and (index not in absorbed or data[0] in plan.whole):
            _surround(view, index, rules, plan, data, outputs)


def _surround(
    view: GraphView, index: int, rules: RuleSet, plan: Plan, data: list[str], outputs: list[str]
) -> None:
    """Q/DQ on what a node reads and writes."""
    node = view.nodes[index]
    constants = EVERY in rules.around and node.op_type in WITH_CONSTANTS
    for position, name in enumerate(node.input):
        if name in data:
            plan.read(name, (index, position))
        elif constants and _is_operand(view, name, outputs[0]):
            plan.weights[(index, position)] = None
    plan.whole.update(outputs)
    plan.quantize(view.label(index), node.op_type)
    if node.op_type in rules.same_scale:
        for name in (*data, *outputs[1:]):
            plan.tie(outputs[0], name)


def _left(view: GraphView, index: int, rules: RuleSet) -> bool:
    """Whether it is a weighted operator that was excluded: its weights stay float, so its inputs do."""
    node = view.nodes[index]
    return node.op_type in rules.weighted and node.input[1] in view.constants


def _is_operand(view: GraphView, name: str, output: str) -> bool:
    """Whether a constant is float and of the output's rank: TensorRT-RTX broadcasts no other codes."""
    constant = view.constants.get(name)
    ranks = constant is not None and len(constant.dims) == len(view.shapes.get(output, ()))
    return ranks and constant is not None and constant.data_type == TensorProto.FLOAT


def _fused_output(view: GraphView, name: str, rules: RuleSet) -> str:
    """The tensor after the activation that fuses with what made `name`, where one does."""
    reader = _absorbing(view, name, rules)
    return name if reader is None else str(view.nodes[reader].output[0])


def _absorbing(view: GraphView, name: str, rules: RuleSet) -> int | None:
    """The activation that fuses with what made `name`, if it alone reads that."""
    readers = view.consumers[name]
    if len(readers) == 1 and name not in view.outputs and name not in view.captured:
        index = readers[0][0]
        if view.nodes[index].op_type in rules.absorbed:
            return index
    return None
