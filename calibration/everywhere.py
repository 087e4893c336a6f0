"""Q/DQ around every operator, as ONNX Runtime's CPU kernels want it.

QLinearConv and its kin need the output's scale too, and an int32 bias; whatever stands between two of them
without Q/DQ of its own throws the chain back to float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgedeploy.calibration.graph_view import GraphView
from edgedeploy.calibration.ruleset import RuleSet

if TYPE_CHECKING:
    from edgedeploy.calibration.plan import Plan


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
    for index in sorted(weighted):
        name = _fused_output(view, view.nodes[index].output[0], rules)
        if view.is_activation(name) and name not in bad:
            plan.whole.add(name)
    # In graph order, so that a chain of operators is followed from its quantised start.
    for index, node in enumerate(view.nodes):
        data = view.data_inputs(index)
        if node.op_type not in rules.around or index in weighted or not data or view.label(index) in kept:
            continue
        moves = node.op_type in rules.same_scale
        output = node.output[0] if moves else _fused_output(view, node.output[0], rules)
        usable = all(view.is_activation(name) and name not in bad for name in (*data, output))
        if not usable or not any(name in plan.whole or name in plan.reads for name in data):
            continue
        for position, name in enumerate(node.input):
            if name in data:
                plan.read(name, (index, position))
        plan.whole.add(output)
        plan.quantize(view.label(index), node.op_type)
        if moves:
            for name in data:
                plan.tie(output, name)


def _fused_output(view: GraphView, name: str, rules: RuleSet) -> str:
    """The tensor after the activation that fuses with what made `name`, where one does."""
    readers = view.consumers[name]
    if len(readers) == 1 and name not in view.outputs and name not in view.captured:
        node = view.nodes[readers[0][0]]
        if node.op_type in rules.absorbed:
            return str(node.output[0])
    return name
