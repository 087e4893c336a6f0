"""y = s*x + t moves through all it commutes with, until weights take it and, at other readers, take it back.

    s f(x) + t = f(s x + t)    for f that moves, averages, sums, or takes maxima (s >= 0)
    W(s x + t) + c = (W s) x + (W t + c)    and where others read x:    W x = (W / s)(s x + t) - (W / s) t

Rules of every operator: export/affine_rules.py, affine_layout.py, affine_linear.py. A norm may leave an Add
behind a MatMul that has no bias; nothing else may cost a node.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.export.affine import of_batchnorm
from edgedeploy.export.affine_linear import operand
from edgedeploy.export.affine_search import Plan, Search, commit
from edgedeploy.export.affine_value import Affine, rank_of
from edgedeploy.export.graph import Graph, Node, Skip, Tensor, bypass, producer
from edgedeploy.export.affine_cases import propagated
from edgedeploy.export.passes.base import graph_pass


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
    return propagated(rng)


@graph_pass(
    "propagate-affine", atol=1e-5, cases=cases, ops=("BatchNormalization", "Mul", "Div", "Add", "Sub")
)
def propagate_affine(graph: Graph, node: Node) -> int:
    place, value = affine_of(node)
    x, y = node.inputs[place], node.outputs[0]
    plans: list[Plan] = []
    reasons: list[str] = []
    for forward in (False, True):
        try:
            plan = Search(graph, node, x, y, forward=forward).plan(value)
            if plan.added > (node.op == "BatchNormalization"):
                raise Skip(f"would add {plan.added} nodes")
            plans.append(plan)
        except Skip as skip:
            reasons.append(f"{'forwards' if forward else 'backwards'}: {skip}")
    if not plans:
        raise Skip("; ".join(reasons))
    commit(graph, min(plans, key=lambda plan: (plan.added, plan.size)))
    bypass(graph, node, place)
    return 1


def affine_of(node: Node) -> tuple[int, Affine]:
    """(place of x, s and t with y = s*x + t) of a norm or of arithmetic with a constant; raises Skip."""
    if node.op == "BatchNormalization":
        s, t = of_batchnorm(node)
        shape = [-1 if axis == 1 else 1 for axis in range(len(rank_of(node.inputs[0])))]
        return 0, Affine.of(s.reshape(shape), t.reshape(shape))
    place, x, k = operand(node)
    none = np.zeros((1,) * k.ndim)
    if node.op in ("Mul", "Div"):
        if node.op == "Div" and (place == 0 or not np.all(k)):
            raise Skip("divides by the tensor or by 0")
        return 1 - place, Affine.of(k if node.op == "Mul" else 1 / k, none)
    if _is_bias(x):
        raise Skip("is the bias of a matrix product, where it costs nothing")
    if node.op == "Sub" and place == 0:
        return 1, Affine.of(none - 1, k)
    return 1 - place, Affine.of(none + 1, k if node.op == "Add" else -k)


def _is_bias(x: Tensor) -> bool:
    maker = producer(x)
    return maker is not None and maker.op == "MatMul"
