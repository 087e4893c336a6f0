"""y = s*x + t moves through all operators that commute with it, until weights absorb it.

    s f(x) + t = f(s x + t)    for f that moves, averages, sums, or takes maxima (s >= 0)
    W(s x + t) + c = (W s) x + (W t + c)    and where others read x:    W x = (W / s)(s x + t) - (W / s) t

The rules of the operators stand in export/affine: commuting.py, layout.py, absorbing.py. A norm may leave an
Add behind a MatMul without bias; nothing else may cost a node.
"""

from __future__ import annotations

from edgedeploy.export.affine.cases import propagated
from edgedeploy.export.affine.reader import AFFINE
from edgedeploy.export.affine.search import Plan, Search, candidate_value, commit
from edgedeploy.export.affine.value import Affine
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.graphs.surgeon import Graph, Node, Skip, bypass, producer

# Smaller constants, such as one value per head and channel, may become one axis after a Reshape.
MAP = 1 << 10  # values


@graph_pass(
    "propagate-affine", atol=1e-5, cases=propagated, ops=AFFINE, phase="fold", after=("fold-mul-add",)
)
def propagate_affine(graph: Graph, node: Node) -> int:
    index, value = candidate_value(node)
    x = node.inputs[index]
    maker = producer(x)
    if value.size > MAP and sum(map(value.varies, range(value.rank))) > 1:
        raise Skip("its constant is a map over several axes, which no weights take")
    if node.op in ("Add", "Sub") and maker is not None and maker.op == "MatMul":
        raise Skip("it is the bias of a matrix product, where it costs nothing")
    room = 1 if node.op == "BatchNormalization" else 0
    found = [_plan(Search(graph, node, x, forward=forward), value, room) for forward in (False, True)]
    plans = [plan for plan in found if isinstance(plan, Plan)]
    if not plans:
        raise Skip(f"backwards: {found[0]}; forwards: {found[1]}")
    commit(graph, min(plans, key=lambda plan: (plan.added, plan.size)))
    bypass(graph, node, index)
    return 1


def _plan(search: Search, value: Affine, room: int) -> Plan | Skip:
    """The plan of a search, or why there is none that adds at most `room` nodes."""
    try:
        plan = search.plan(value)
    except Skip as skip:
        return skip
    return plan if plan.added <= room else Skip(f"it would leave {plan.added} additions behind")
