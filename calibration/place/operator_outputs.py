"""Q/DQ on inputs and outputs of operators, as ONNX Runtime's CPU kernels require.

QLinear* operators also need the scale of the output, and an int32 bias. An operator without Q/DQ between two
of them breaks the chain of INT8 operators.
"""

from __future__ import annotations

from onnx import TensorProto

from edgedeploy.calibration.place.plan import Planning
from edgedeploy.calibration.place.ruleset import EVERY, RuleSet
from edgedeploy.graphs.view import GraphView

# Operators whose constant operands are quantized too if `around` is EVERY.
WITH_CONSTANTS = frozenset({"Add", "Concat", "Div", "MatMul", "Max", "Min", "Mul", "PRelu", "Sub"})


def quantize_outputs(planning: Planning) -> None:
    """Extend a plan of weighted operators to their outputs and to the operators of `rules.around`."""
    view, rules, plan = planning.view, planning.rules, planning.plan
    absorbed = {
        reader
        for index, node in enumerate(view.nodes)
        if index in planning.weighted or rules.is_around(node.op_type)
        for name in node.output
        if (reader := _absorbing(view, name, rules)) is not None
    }
    for index in sorted(planning.weighted):
        name = _fused_output(view, view.nodes[index].output[0], rules)
        if planning.is_usable(name):
            plan.fully_quantized.add(name)
    # Graph order follows a chain of operators from its quantized start.
    for index, node in enumerate(view.nodes):
        if not _is_around(planning, index):
            continue
        outputs = [name for name in node.output if name]
        if node.op_type not in rules.same_scale and len(outputs) == 1:
            outputs = [_fused_output(view, outputs[0], rules)]
        # Its other inputs are shapes and indices.
        data = [name for name in view.data_inputs(index) if name in view.float32]
        if not data or not all(planning.is_usable(name) for name in (*data, *outputs)):
            continue
        reached = EVERY in rules.around or any(
            name in plan.fully_quantized or name in plan.reads for name in data
        )
        if reached and (index not in absorbed or data[0] in plan.fully_quantized):
            _surround(planning, index, data, outputs)


def _is_around(planning: Planning, index: int) -> bool:
    """Whether a node without INT8 weights may get Q/DQ on its inputs and outputs."""
    view, rules = planning.view, planning.rules
    node = view.nodes[index]
    if index in planning.weighted or not rules.is_around(node.op_type) or planning.is_kept(index):
        return False
    # An excluded weighted operator keeps float inputs.
    return node.op_type not in rules.weighted or node.input[1] not in view.constants


def _surround(planning: Planning, index: int, data: list[str], outputs: list[str]) -> None:
    """Plan Q/DQ on the inputs and outputs of a node."""
    view, rules, plan = planning.view, planning.rules, planning.plan
    node = view.nodes[index]
    constants = EVERY in rules.around and node.op_type in WITH_CONSTANTS
    for position, name in enumerate(node.input):
        if name in data:
            plan.read(name, (index, position))
        elif constants and _is_operand(view, name, outputs[0]):
            plan.weights[(index, position)] = None
    plan.fully_quantized.update(outputs)
    planning.quantize(index)
    if node.op_type in rules.same_scale:
        for name in (*data, *outputs[1:]):
            plan.tie(outputs[0], name)


def _is_operand(view: GraphView, name: str, output: str) -> bool:
    """Whether a constant is float and has the output's rank; TensorRT-RTX broadcasts no other codes."""
    constant = view.constants.get(name)
    if constant is None or constant.data_type != TensorProto.FLOAT:
        return False
    return len(constant.dims) == len(view.shapes.get(output, ()))


def _fused_output(view: GraphView, name: str, rules: RuleSet) -> str:
    """The output of the activation that fuses with the producer of `name`; else `name`."""
    reader = _absorbing(view, name, rules)
    return name if reader is None else str(view.nodes[reader].output[0])


def _absorbing(view: GraphView, name: str, rules: RuleSet) -> int | None:
    """The activation that fuses with the producer of `name`: the only consumer; else None."""
    reader = view.readers(name)[0] if view.is_private(name) else -1
    return reader if view.op(reader) in rules.absorbed else None
