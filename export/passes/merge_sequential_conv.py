"""B*(A*x) = (B∘A)*x: a convolution and the convolution or average pooling right after it become one.

Exact where the second does not pad, or the first has size 1 and no bias; otherwise the merged kernel would
read other values than zeros at the border. Not rewritten where multiplications would increase. Ding et al.,
Diverse Branch Block, 2021, transform III; Bhardwaj et al., Collapsible Linear Blocks, 2022.
"""

from __future__ import annotations

from edgedeploy.export.affine.value import require_storable
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.kernels import compose, kernel_of, write_convolution
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node, Skip, detach, float_of, producer, require_private


def cases(rng: Rng) -> Models:
    image = "float[1,4,h,v] x"
    c = {
        "wide": floats(rng, 32, 4, 3, 3), "down": floats(rng, 6, 32, 1, 1), "b": floats(rng, 32),
        "a": floats(rng, 6),
        "up": floats(rng, 32, 4, 1, 1), "k": floats(rng, 6, 32, 3, 3), "g": floats(rng, 32, 2, 1, 1),
        "h": floats(rng, 4, 8, 3, 3), "f": floats(rng, 4, 1, 3, 1), "e": floats(rng, 4, 1, 1, 3),
        "f1": floats(rng, 32, 1, 3, 3),
    }  # fmt: skip
    halves = "m = Conv<pads=[1,1,1,1], strides=[2,2]>(x, up) \n y = Conv<pads=[1,0,0,1]>(m, down)"
    pool = "AveragePool<kernel_shape=[1,1], strides=[2,2]>(m)"
    return [
        text_model(image, "y", "m = Conv<pads=[1,1,1,1]>(x, wide, b) \n y = Conv(m, down, a)", c),
        text_model(image, "y", "m = Conv(x, up) \n y = Conv<pads=[1,1,0,1], strides=[2,1]>(m, k)", c),
        text_model(image, "y", "m = Conv<pads=[1,1,1,1]>(x, up, b) \n y = Conv<dilations=[2,2]>(m, k)", c),
        text_model(image, "y", "m = Conv<group=2>(x, g, b) \n y = Conv<group=4>(m, h)", c),
        text_model(image, "y", f"m = Conv<pads=[1,1,1,1]>(x, wide, b) \n y = {pool}", c),
        text_model(image, "y", halves, c),
    ]  # fmt: skip


@graph_pass(
    "merge-sequential-conv",
    atol=1e-5,
    cases=cases,
    ops=("Conv", "AveragePool"),
    phase="merge",
    after=("merge-parallel-conv",),
)
def merge_sequential_conv(graph: Graph, node: Node) -> int:
    before = producer(node.inputs[0])
    if before is None or before.op != "Conv":
        raise Skip("it does not follow a convolution")
    require_private(graph, node.inputs[0])
    w = float_of(before.inputs[1], f"the weight of '{before.name}'")
    first = kernel_of(before, int(w.shape[1]) * int(before.attrs.get("group", 1)), w.ndim)
    merged = compose(first, kernel_of(node, first.outputs, w.ndim))
    x, dtype = before.inputs[0], before.inputs[1].dtype
    require_storable(dtype, merged.w, merged.b)
    write_convolution(graph, node, x, merged, dtype)
    detach(before)
    return 1
