"""y = s*x + t moves through all it commutes with, until weights take it and, at other readers, take it back.

    s f(x) + t = f(s x + t)    for f that moves, averages, sums, or takes maxima (s >= 0)
    W(s x + t) + c = (W s) x + (W t + c)    and where others read x:    W x = (W / s)(s x + t) - (W / s) t

Rules of every operator: export/affine/rules.py, affine_layout.py, affine_linear.py. A norm may leave an Add
behind a MatMul that has no bias; nothing else may cost a node.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.export.affine.cases import propagated
from edgedeploy.export.affine.linear import affine_of
from edgedeploy.export.affine.search import Plan, Search, commit
from edgedeploy.export.affine.value import Affine
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.graphs.surgeon import Graph, Node, Skip, bypass, producer

# Smaller ones, such as one value a head and channel, may become a row when they are reshaped.
MAP = 1 << 10  # values


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
    return propagated(rng)


@graph_pass(
    "propagate-affine",
    atol=1e-5,
    cases=cases,
    ops=("BatchNormalization", "Mul", "Div", "Add", "Sub"),
    phase="fold",
    after=("fold-mul-add",),
)
def propagate_affine(graph: Graph, node: Node) -> int:
    place, value = affine_of(node)
    x, y = node.inputs[place], node.outputs[0]
    maker = producer(x)
    if max(array.size for array in value.arrays) > MAP and sum(map(value.varies, range(value.rank))) > 1:
        raise Skip("its constant is a map over several axes, which no weights take")
    if node.op in ("Add", "Sub") and maker is not None and maker.op == "MatMul":
        raise Skip("it is the bias of a matrix product, where it costs nothing")
    room = 1 if node.op == "BatchNormalization" else 0
    found = [_plan(Search(graph, node, x, y, forward=forward), value, room) for forward in (False, True)]
    plans = [plan for plan in found if isinstance(plan, Plan)]
    if not plans:
        raise Skip(f"backwards: {found[0]}; forwards: {found[1]}")
    commit(graph, min(plans, key=lambda plan: (plan.added, plan.size)))
    bypass(graph, node, place)
    return 1


def _plan(search: Search, value: Affine, room: int) -> Plan | Skip:
    """The plan of a search, or why there is none that adds at most `room` nodes."""
    try:
        plan = search.plan(value)
    except Skip as skip:
        return skip
    return plan if plan.added <= room else Skip(f"it would leave {plan.added} additions behind")
