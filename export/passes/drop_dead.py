"""Remove nodes that no graph output depends on; graph inputs stay."""

from __future__ import annotations

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, tidy


def cases(rng: Rng) -> Models:
    w = floats(rng, 4, 3, 3, 3)
    return [
        text_model("float[1,3,8,8] x", "y", "y = Relu(x) \n d = Conv(x, w) \n e = Tanh(d)", {"w": w}),
        text_model("float[1,3,8,8] x", "y", "d = Sigmoid(x) \n y = Conv(x, w)", {"w": w}),
    ]


@graph_pass("drop-dead", atol=0.0, cases=cases, phase="clean")
def drop_dead(graph: Graph) -> int:
    before = len(graph.nodes)
    tidy(graph)
    return before - len(graph.nodes)
