"""(x - mean x) / sqrt(mean (x - mean x)^2 + e) * g + b = LayerNormalization(x; g, b, e), since opset 17.

Over trailing axes; the mean of channels in front of H and W has no operator. One kernel instead of nine, and
runtimes keep its sums in float32 where the network runs in float16. Ba, Kiros and Hinton, 2016, equation 4.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.moments import fuse_norm, standardized
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, require_opset

_HEAD = "m = ReduceMean{0}(x{1}) \n d = Sub(x, m) \n "
_TAIL = "v = ReduceMean{0}(q{1}) \n s = Add(v, e) \n r = Sqrt(s) \n "


def cases(rng: Rng) -> Models:
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
    found = standardized(node)
    center = found.require_centered()
    require_opset(graph, 17, "LayerNormalization")
    x, axis = center[0].inputs[0], found.axis - found.rank
    return fuse_norm(graph, found, "LayerNormalization", x, center, axis=axis)
