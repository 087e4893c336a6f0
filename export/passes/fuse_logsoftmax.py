"""log(Softmax(x)) = LogSoftmax(x) over the same axis: one operator, and finite where Softmax underflows."""

from __future__ import annotations

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.polynomial import fuse
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, producer


def cases(_: Rng) -> Models:
    return [
        text_model("float[2,10] x", "y", "s = Softmax(x) \n y = Log(s)", {}),
        text_model("float[n,5,h,w] x", "y", "s = Softmax<axis=1>(x) \n y = Log(s)", {}),
        text_model("float[2,5,4] x", "y", "s = Softmax(x) \n y = Log(s)", {}, opset=11),
    ]


@graph_pass("fuse-logsoftmax", atol=2e-6, cases=cases, ops=("Log",), phase="recognize")
def fuse_logsoftmax(graph: Graph, node: Node) -> int:
    softmax = producer(node.inputs[0])
    if softmax is None or softmax.op != "Softmax":
        raise Skip("it is not the logarithm of a Softmax")
    return fuse(graph, node, [softmax], "LogSoftmax", [softmax.inputs[0]], **softmax.attrs)
