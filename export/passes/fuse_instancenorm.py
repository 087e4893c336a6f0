"""(x - m) / sqrt(mean (x - m)^2 + e) * g + b = InstanceNormalization(x; g, b, e), m = mean x over space.

Space is every axis behind the channels. One kernel instead of nine. Tensors of rank 3 are left to
`fuse-layernorm`: their last axis is that of features.
Ulyanov et al., Instance Normalization: The Missing Ingredient for Fast Stylization, 2016, equation 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.moments import axes_of, standardized
from edgedeploy.export.match.polynomial import fuse
from edgedeploy.export.samples import text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, Tensor, constant, is_constant, producer

_HEAD = (
    "m = ReduceMean{0}(x{1}) \n d = Sub(x, m) \n q = Mul(d, d) \n "
    "v = ReduceMean{0}(q{1}) \n s = Add(v, e) \n r = Sqrt(s) \n "
)


def cases(rng: np.random.Generator) -> Sequence[onnx.ModelProto]:
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
    found = standardized(graph, node, ("Mul", "Add"), per_channel=True)
    center = producer(found.d)
    mean = producer(center.inputs[1]) if center is not None and center.op == "Sub" else None
    if center is None or mean is None or mean.op != "ReduceMean" or mean.inputs[0] is not center.inputs[0]:
        raise Skip("what it normalizes is not x less the mean of x")
    rank = found.rank
    if found.axis != 2 or rank < 4:
        raise Skip("it does not average over height and width alone")
    if sorted(axis % rank for axis in axes_of(mean)) != list(range(2, rank)) or not mean.attrs.get(
        "keepdims", 1
    ):
        raise Skip("mean and variance are of different axes")
    _require_affine_per_channel(found.root.outputs[0])
    x, name = center.inputs[0], found.root.outputs[0].name
    bias = np.zeros(found.varies) if found.bias is None else found.bias
    inputs = [
        x,
        constant(graph, f"{name}_scale", found.scale, x.dtype),
        constant(graph, f"{name}_bias", bias, x.dtype),
    ]
    nodes = [*found.nodes, center, mean]
    return fuse(graph, found.root, nodes, "InstanceNormalization", inputs, epsilon=found.epsilon)


def _require_affine_per_channel(result: Tensor) -> None:
    """Raise Skip where a scale or shift follows that varies in space: with it, it is a LayerNorm."""
    for reader in result.outputs:
        constants = [operand for operand in reader.inputs if is_constant(operand)]
        if reader.op in ("Mul", "Add") and any(np.size(each.values) > 1 for each in constants):
            raise Skip("the scale or shift that follows varies in height and width")
