"""(x - mean x) / sqrt(mean (x - mean x)^2 + e) * g + b = LayerNormalization(x; g, b, e), since opset 17.

Over trailing axes; the mean of channels in front of H and W has no operator. One kernel instead of nine, and
runtimes keep its sums in float32 where the network runs in float16. Ba, Kiros and Hinton, 2016, equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.moments import axes_of, standardized
from edgedeploy.export.match.polynomial import fuse, require_opset
from edgedeploy.export.samples import text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, constant, producer

_HEAD = "m = ReduceMean{0}(x{1}) \n d = Sub(x, m) \n "
_TAIL = "v = ReduceMean{0}(q{1}) \n s = Add(v, e) \n r = Sqrt(s) \n "


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
    w = {
        "two": np.float32(2), "e": np.float32(1e-5), "last": np.array([-1]), "pair": np.array([1, 2]),
        "g": np.asarray(rng.standard_normal(8), np.float32),
        "b": np.asarray(rng.standard_normal((1, 8)), np.float32),
        "half": np.float32(-0.5),
    }  # fmt: skip
    new, old = ("", ", last"), ("<axes=[-1]>", "")
    power, times = "q = Pow(d, two) \n ", "q = Mul(d, d) \n "
    whole = "n = Div(d, r) \n k = Mul(n, g) \n y = Add(k, b)"
    return [
        text_model("float[2,4,8] x", "y", (_HEAD + power + _TAIL + whole).format(*new), w),
        text_model("float[n,t,8] x", "y", (_HEAD + times + _TAIL + whole).format(*old), w, opset=17),
        text_model("float[2,4,8] x", "y", (_HEAD + times + _TAIL + "y = Div(d, r)").format("", ", pair"), w),
        text_model(
            "float[n,t,8] x", "y",
            (_HEAD + times + _TAIL + "i = Reciprocal(r) \n n = Mul(i, d) \n y = Add(n, b)").format(*new), w,
        ),
        text_model(
            "float[n,t,8] x", "y",
            (_HEAD + times + "v = ReduceMean{0}(q{1}) \n s = Add(e, v) \n i = Pow(s, half) \n "
             "n = Mul(d, i) \n y = Mul(g, n)").format(*new), w,
        ),
    ]  # fmt: skip


@graph_pass(
    "fuse-layernorm",
    atol=1e-5,
    cases=cases,
    ops=("Sqrt", "Pow"),
    phase="recognize",
    after=("fuse-instancenorm",),
)
def fuse_layernorm(graph: Graph, node: Node) -> int:
    found = standardized(graph, node, ("Mul", "Add"))
    center = producer(found.d)
    mean = producer(center.inputs[1]) if center is not None and center.op == "Sub" else None
    if center is None or mean is None or mean.op != "ReduceMean" or mean.inputs[0] is not center.inputs[0]:
        raise Skip("what it normalizes is not x less the mean of x")
    x = center.inputs[0]
    rank = found.rank
    axes = sorted(axis % rank for axis in axes_of(mean))
    if axes != list(range(found.axis, rank)) or not mean.attrs.get("keepdims", 1):
        raise Skip("mean and variance are of different axes")
    require_opset(graph, "LayerNormalization", 17)
    name, dtype = found.root.outputs[0].name, x.dtype
    inputs = [x, constant(graph, f"{name}_scale", found.scale, dtype)]
    if found.bias is not None:
        inputs.append(constant(graph, f"{name}_bias", found.bias, dtype))
    nodes = [*found.nodes, center, mean]
    attrs = {"axis": found.axis - rank, "epsilon": found.epsilon}
    return fuse(graph, found.root, nodes, "LayerNormalization", inputs, **attrs)
