"""argmax f(x) = argmax x for increasing f: remove Softmax, LogSoftmax, Sigmoid and the like before ArgMax.

Softmax divides by one number per row, so it is increasing along its own axis alone. Where f rounds two values
to one, ArgMax of f returns the first; ArgMax of x returns the larger.
"""

from __future__ import annotations

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import FLOATS, Graph, Node, Skip, dtype_name, is_standard, producer

_INCREASING = frozenset({"Sigmoid", "Tanh", "Exp", "Softplus", "Erf", "Atan"})
_NORMALIZED = frozenset({"Softmax", "LogSoftmax"})


def cases(_: Rng) -> Models:
    image = "float[n,5,h,w] x"
    return [
        text_model(image, "y", "s = Softmax<axis=1>(x) \n y = ArgMax<axis=1, keepdims=0>(s)", {}),
        text_model(image, "y", "l = LogSoftmax<axis=-3>(x) \n y = ArgMax<axis=1>(l)", {}),
        text_model("float[2,5] x", "y, z", "z = Sigmoid(x) \n y = ArgMax<axis=-1>(z)", {}),
        text_model("float[2,5,4] x", "y", "s = Softmax(x) \n y = ArgMax<axis=2>(s)", {}, opset=11),
    ]


@graph_pass("drop-monotone-before-argmax", atol=1e-3, cases=cases, ops=("ArgMax",), phase="recognize")
def drop_monotone_before_argmax(graph: Graph, node: Node) -> int:
    maker = producer(node.inputs[0])
    if maker is None or not is_standard(maker) or maker.op not in _INCREASING | _NORMALIZED:
        raise Skip("no increasing function precedes it")
    x = maker.inputs[0]
    if dtype_name(x) not in FLOATS or x.shape is None:
        raise Skip("the rank and type of the tensor are not known")
    if maker.op in _NORMALIZED:
        axis = int(node.attrs.get("axis", 0)) % len(x.shape)
        over = int(maker.attrs.get("axis", -1 if graph.opset >= 13 else 1)) % len(x.shape)
        # Before opset 13 a row comprised all axes from `axis` on.
        if axis != over if graph.opset >= 13 else axis < over:
            raise Skip(f"{maker.op} is over axis {over}, ArgMax over axis {axis}")
    node.inputs[0] = x
    return 1
