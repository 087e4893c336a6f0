"""Clip(a x + b, 0, 1/c) * c = HardSigmoid(x; alpha = a c, beta = b c); relu6(x+3)/6 is the best known.

The factor c may be any of the products that follow, as in x * relu6(x+3) / 6. Not rewritten where a
convolution computes x for this node alone: its weights absorb a x + b.
"""

from __future__ import annotations

import math

import numpy as np

from edgedeploy.core.operators import WEIGHTED
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.bounds import BOUNDING, bounds_of
from edgedeploy.export.match.polynomial import (
    below,
    fuse,
    polynomial,
    require_float,
    require_interior,
    same_rank,
    scalar,
)
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, Tensor, bypass, kept_names, producer

MAX_STEPS = 4


def cases(_: Rng) -> Models:
    w = {
        "three": np.float32(3), "six": np.float32(6), "zero": np.float32(0), "sixth": np.float32(1 / 6),
        "one": np.float32(1), "half": np.ones(1, np.float32) / 2,
    }  # fmt: skip
    bodies = [
        "s = Add(a, three) \n c = Clip(s, zero, six) \n y = Div(c, six)",
        "s = Add(three, a) \n c = Clip(s, zero, six) \n m = Mul(a, c) \n y = Mul(m, sixth)",
        "s = Add(three, a) \n c = Clip(s, zero, six) \n m = Mul(sixth, c) \n y = Mul(m, a)",
        "m = Mul(a, sixth) \n s = Add(m, half) \n c = Clip(s, zero, one) \n y = Tanh(c)",
    ]
    kinds = ("float[2,3,8] x", "float[n,3,h,v] x")
    old = "a = Sin(x) \n s = Add(a, three) \n c = Clip<min=0.0, max=6.0>(s) \n y = Div(c, six)"
    return [
        text_model(kinds[1], "y", old, {"three": w["three"], "six": w["six"]}, opset=9),
        *(text_model(kind, "y", f"a = Sin(x) \n {body}", w) for body in bodies for kind in kinds),
    ]


@graph_pass("fuse-hardsigmoid", atol=2e-6, cases=cases, ops=BOUNDING, phase="recognize", after=("fuse-clip",))
def fuse_hardsigmoid(graph: Graph, node: Node) -> int:
    source, low, high = bounds_of(node)
    if low != 0 or not 0 < high < math.inf:
        raise Skip("it is not bounded by 0 and a positive number")
    x, alpha, beta, nodes = _line(graph, source, node)
    maker = producer(x)
    if maker is not None and maker.op in WEIGHTED and len(x.outputs) == 1:
        raise Skip("the weights before it take the factor and the shift")
    if high != 1:
        bypass(graph, *_divider(graph, node, high))
    return fuse(graph, node, nodes, "HardSigmoid", [x], alpha=alpha / high, beta=beta / high)


def _line(graph: Graph, source: Tensor, node: Node) -> tuple[Tensor, float, float, list[Node]]:
    """(x, a, b, nodes) with a x + b = source, x as far upstream as no other node reads; raises Skip."""
    refusal = Skip("what it bounds is not a x + b")
    for x in reversed(list(below(source))[1:]):
        line = polynomial(source, [x])
        if line is None or set(line.coefficients) != {(0,), (1,)} or not same_rank(x, node.outputs[0]):
            continue
        if line.coefficients[1,] <= 0:
            continue
        require_float(x)
        try:
            require_interior(graph, node, line.nodes)
        except Skip as shared:
            refusal = shared
            continue
        return x, line.coefficients[1,], line.coefficients[0,], line.nodes
    raise refusal


def _divider(graph: Graph, node: Node, high: float) -> tuple[Node, int]:
    """(node, index of its operand) of the downstream division by `high`; raises Skip without one."""
    kept, tensor = kept_names(graph), node.outputs[0]
    for _ in range(MAX_STEPS):
        reader = tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.name not in kept else None
        if reader is None or reader.op not in ("Mul", "Div"):
            break
        place = next(index for index, operand in enumerate(reader.inputs) if operand is tensor)
        other = reader.inputs[1 - place]
        number = scalar(other)
        if number is not None and (reader.op == "Mul" or place == 0):
            factor = number if reader.op == "Mul" else 1 / (number or math.inf)
            if not math.isclose(factor * high, 1.0, rel_tol=1e-6):
                raise Skip(f"it is bounded by {high:g} and then multiplied by {factor:g}")
            if not same_rank(tensor, reader.outputs[0]):
                raise Skip("the constant may broadcast the tensor to a larger rank")
            return reader, place
        if reader.op == "Div" or other is tensor:
            break
        tensor = reader.outputs[0]
    raise Skip(f"nothing divides by its bound {high:g}")
