"""log(1 + e^x) = Softplus(x): one operator, and finite where e^x is not."""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.polynomial import below, fuse, polynomial, require_float, same_rank
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, producer


def cases(_: Rng) -> Models:
    w = {"one": np.ones(1, np.float32)}
    bodies = ("e = Exp(x) \n s = Add(e, one) \n y = Log(s)", "e = Exp(x) \n s = Add(one, e) \n y = Log(s)")
    return [
        text_model(kind, "y", body, w) for body in bodies for kind in ("float[2,3,8] x", "float[n,3,h,v] x")
    ]


@graph_pass("fuse-softplus", atol=2e-6, cases=cases, ops=("Log",), phase="recognize")
def fuse_softplus(graph: Graph, node: Node) -> int:
    for e in below(node.inputs[0]):
        exponential, total = producer(e), polynomial(node.inputs[0], [e])
        if exponential is None or exponential.op != "Exp" or total is None:
            continue
        x = exponential.inputs[0]
        if not total.equals({(0,): 1.0, (1,): 1.0}, require_float(x)):
            raise Skip("what is added to the exponential is not 1")
        if not same_rank(x, node.outputs[0]):
            raise Skip("the constant may broadcast the tensor to a larger rank")
        return fuse(graph, node, [exponential, *total.nodes], "Softplus", [x])
    raise Skip("it is not the logarithm of 1 + e^x")
