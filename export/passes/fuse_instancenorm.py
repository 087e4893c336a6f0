"""(x - m) / sqrt(mean (x - m)^2 + e) * g + b = InstanceNormalization(x; g, b, e), m = mean x over space.

Space is every axis after the channels. One kernel instead of nine. Not rewritten: tensors of rank 3, whose
last axis holds features (`fuse-layernorm`). Ulyanov et al., Instance Normalization: The Missing Ingredient
for Fast Stylization, 2016, equation 2.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.moments import fuse_norm, standardized
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, is_constant

_HEAD = (
    "m = ReduceMean{0}(x{1}) \n d = Sub(x, m) \n q = Mul(d, d) \n "
    "v = ReduceMean{0}(q{1}) \n s = Add(v, e) \n r = Sqrt(s) \n "
)


def cases(rng: Rng) -> Models:
    w = {
        "e": np.float32(1e-5), "space": np.array([2, 3]), "deep": np.array([-1, -2, -3]),
        "g": np.asarray(rng.standard_normal((6, 1, 1)), np.float32),
        "b": np.asarray(rng.standard_normal((1, 6, 1, 1)), np.float32),
    }  # fmt: skip
    new, old = ("", ", space"), ("<axes=[2,3]>", "")
    whole = "n = Div(d, r) \n k = Mul(n, g) \n y = Add(k, b)"
    return [
        text_model("float[2,6,4,5] x", "y", (_HEAD + whole).format(*new), w),
        text_model("float[n,6,h,v] x", "y", (_HEAD + whole).format(*old), w, opset=17),
        text_model("float[n,6,h,v] x", "y", (_HEAD + "y = Div(d, r)").format(*new), w),
        text_model(
            "float[n,6,h,v] x", "y",
            (_HEAD + "i = Reciprocal(r) \n n = Mul(d, i) \n y = Mul(g, n)").format(*new), w,
        ),
        text_model("float[1,6,3,4,5] x", "y", (_HEAD + "y = Div(d, r)").format("", ", deep"), w),
    ]  # fmt: skip


@graph_pass("fuse-instancenorm", atol=1e-5, cases=cases, ops=("Sqrt", "Pow"), phase="recognize")
def fuse_instancenorm(graph: Graph, node: Node) -> int:
    found = standardized(node)
    center, rank = found.require_centered(), found.rank
    if found.axis != 2 or rank < 4:
        raise Skip("it does not average over height and width alone")
    for reader in found.root.outputs[0].outputs:
        sizes = [size for t in reader.inputs if is_constant(t) for size in t.values.shape[2 - rank :]]
        if reader.op in ("Mul", "Add") and any(size > 1 for size in sizes):
            raise Skip("the scale or shift that follows varies in height and width: that is a LayerNorm")
    return fuse_norm(graph, found, "InstanceNormalization", center[0].inputs[0], center)
