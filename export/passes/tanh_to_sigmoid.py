"""tanh(x) = 2 sigmoid(2 x) - 1, after a convolution or Gemm, whose weights absorb the inner 2.

OpenVINO 2026.4 fuses both into its INT8 convolutions, and computes the Sigmoid faster: rule sets name the
pass where that was measured (docs/cpus.md). In float32 the two differ by rounding, 1e-7 of the largest value.
"""

from __future__ import annotations

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.rebuild import Formula
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, is_constant, producer, require_private


def cases(rng: Rng) -> Models:
    w = {"w": floats(rng, 4, 3, 3, 3), "b": floats(rng, 4), "m": floats(rng, 8, 5)}
    return [
        text_model("float[1,3,h,v] x", "y", "a = Conv<pads=[1,1,1,1]>(x, w, b) \n y = Tanh(a)", w),
        text_model("float[1,3,6,6] x", "y", "a = Conv(x, w) \n t = Tanh(a) \n y = Relu(t)", w),
        text_model("float[n,8] x", "y", "a = Gemm(x, m) \n y = Tanh(a)", w),
    ]


@graph_pass("tanh-to-sigmoid", atol=1e-6, cases=cases, ops=("Tanh",))
def tanh_to_sigmoid(graph: Graph, node: Node) -> int:
    x = node.inputs[0]
    made = producer(x)
    if made is None or made.op not in {"Conv", "Gemm"} or not is_constant(made.inputs[1]):
        raise Skip("no convolution or Gemm with constant weights makes its input")
    require_private(graph, x)
    write = Formula(graph, node)
    write("Sub", write("Mul", write("Sigmoid", write("Mul", x, 2.0)), 2.0), 1.0, last=True)
    return 1
