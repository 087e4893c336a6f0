"""Resize to a computed size = Resize by constant factors, where the size is provably k times the input's.

sizes = (n, c, k h, k w) computed from (n, c, h, w) equals scales = (1, 1, k, k). Sizes with constant H and W
and a copied batch become sizes over the spatial axes alone (opset 18), or scales where H and W are known and
their ratio is exact. The graph then computes no sizes, which some runtimes do not support.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.sizes import Dim, Size, dim, sizes
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, absent, constant, has, is_constant

_LINEAR = 'mode="linear", coordinate_transformation_mode="pytorch_half_pixel"'


def cases(_: Rng) -> Models:
    w = {
        "from0": np.array([0]), "to2": np.array([2]), "far": np.array([9]), "two": np.array([2, 3]),
        "fixed": np.array([12, 20]), "large": np.array([16, 24]), "double": np.array([2.0], np.float32),
    }  # fmt: skip
    head = "s = Shape(x) \n b = Slice(s, from0, to2) \n "
    times = head + "e = Slice(s, to2, far) \n m = Mul(e, two) \n r = Concat<axis=0>(b, m) \n "
    floored = head + "e = Slice(s, to2, far) \n f = Cast<to=1>(e) \n m = Mul(f, double) \n o = Floor(m) \n "
    floored += "i = Cast<to=7>(o) \n r = Concat<axis=0>(b, i) \n "
    fixed, large = (head + f"r = Concat<axis=0>(b, {key}) \n " for key in ("fixed", "large"))
    resize = f"a = Tanh(x) \n y = Resize<{_LINEAR}>(a, , , r)"
    return [
        text_model("float[n,3,h,v] x", "y", times + resize, w),
        text_model("float[n,3,h,v] x", "y", floored + 'y = Resize<mode="nearest">(x, , , r)', w, opset=13),
        text_model("float[n,3,h,v] x", "y", fixed + resize, w),
        text_model("float[n,3,8,12] x", "y", large + resize, w, opset=13),
    ]


@graph_pass("static-resize", atol=2e-6, cases=cases, ops=("Resize",), phase="recognize")
def static_resize(graph: Graph, node: Node) -> int:
    if not has(node, 3) or is_constant(node.inputs[3]):
        raise Skip("its size is not computed")
    x, name = node.inputs[0], node.outputs[0].name
    wanted = sizes(node.inputs[3])
    if wanted is None or x.shape is None or wanted.ndim != 1:
        raise Skip("what its size is computed from is not known")
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Skip("it crops")
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Skip("its size is a bound, not the size")
    axes = [axis % len(x.shape) for axis in node.attrs.get("axes", range(len(x.shape)))]
    pairs = [(dim(x, axis), size) for axis, size in zip(axes, wanted, strict=True)]
    scales = [_ratio(*pair) for pair in pairs]
    roi = absent()
    if None not in scales:
        node.inputs = [x, roi, constant(graph, f"{name}_scales", np.array(scales, np.float32))]
        return 1
    moved = [place for place, ratio in enumerate(scales) if ratio != 1]
    fixed = [wanted[place] for place in moved]
    if graph.opset < 18 or not all(isinstance(size, int) for size in fixed):
        raise Skip("its size is neither constant nor a whole multiple of the input's")
    node.inputs = [x, roi, absent(), constant(graph, f"{name}_sizes", np.array(fixed, np.int64))]
    node.attrs["axes"] = [axes[place] for place in moved]
    return 1


def _ratio(before: Size, after: Size) -> float | None:
    """The factor from `before` to `after`, if factor and product are exact in float32; else None."""
    if after is None or before is None:
        return None
    if isinstance(before, Dim) or isinstance(after, Dim):
        if not isinstance(before, Dim) or not isinstance(after, Dim) or before.name != after.name:
            return None
        ratio, rest = divmod(after.factor, before.factor)
        return float(ratio) if not rest else None
    ratio = np.float32(after) / np.float32(before) if before else np.float32(0)
    is_exact = float(ratio) * before == after and np.float32(ratio) * np.float32(before) == np.float32(after)
    return float(ratio) if is_exact else None
