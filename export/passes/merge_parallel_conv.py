"""A*x + B*x = (A + B)*x: summed linear branches of one tensor become one convolution.

A branch is a sequence of convolutions, average poolings and normalizations with constants, or empty (a
shortcut). Small kernels are embedded in the larger one, dilated kernels with zeros between their taps,
depthwise kernels on the diagonal. Not rewritten where multiplications would increase. Ding et al., RepVGG,
2021; ACNet, 2019; Diverse Branch Block, 2021; UniRepLKNet, 2024.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

from edgedeploy.export.affine.value import require_storable
from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.kernels import (
    Kernel,
    add,
    compose,
    identity,
    kernel_of,
    row_work,
    write_convolution,
)
from edgedeploy.export.match.sums import SUMS, Term, is_root, starts, terms
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    bypass,
    detach,
    float_of,
    kept_names,
    shape_of,
    value_of,
)

Row = list[Node]
Ways = list[tuple[Tensor, Row]]


def cases(rng: Rng) -> Models:
    image, big = "float[1,4,h,v] x", "float[1,4,15,14] x"
    c = {
        "w": floats(rng, 4, 4, 3, 3), "b": floats(rng, 4), "p": floats(rng, 4, 4, 1, 1),
        "s": rng.uniform(0.5, 2, 4).astype(np.float32), "r": floats(rng, 4, 4, 1, 3),
        "q": floats(rng, 4, 4, 3, 1),
        "g": floats(rng, 4, 2, 1, 1),
        "d": floats(rng, 4, 1, 3, 3), "k": floats(rng, 4, 1, 7, 7), "e": floats(rng, 4, 1, 5, 5),
        "v": floats(rng, 8, 4, 3, 3), "u": floats(rng, 8, 4, 1, 1), "c": floats(rng, 4, 1, 1),
        "z": floats(rng, 2, 4, 1, 1), "y3": floats(rng, 4, 2, 3, 3),
    }  # fmt: skip
    full = "m = Conv<pads=[1,1,1,1]>(x, w, b) \n "
    edge = "o = Conv<pads=[1,1,1,1]>(x, z, z1) \n o1 = Conv(o, y3) \n "
    z1 = {"z1": floats(rng, 2)}
    strided = (
        "m = Conv<pads=[0,1,2,1], strides=[2,2]>(x, v) \n n = Conv<strides=[2,2]>(x, u) \n y = Add(m, n)"
    )
    pooled = "n = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) \n y = Add(n, m)"
    dilated = (
        "m = Conv<group=4, pads=[3,3,3,3]>(x, k) \n n = Conv<group=4, pads=[2,2,2,2]>(x, e) \n "
        "o = Conv<group=4, pads=[3,3,3,3], dilations=[3,3]>(x, d) \n a = Add(m, n) \n y = Add(a, o)"
    )
    repvgg = "n = Conv(x, p) \n i = BatchNormalization(x, s, b, b, s) \n a = Add(m, n) \n y = Add(i, a)"
    apart = "t = Relu(x) \n n = Conv<group=2>(x, g) \n a = Add(m, t) \n h = Sub(a, n) \n y = Relu(h)"
    return [
        text_model(image, "y", full + repvgg, c),
        text_model(image, "y", full + "y = Add(x, m)", c),
        text_model(image, "y", full + "n = Mul(x, c) \n y = Sub(m, n)", c),
        text_model(
            image,
            "y",
            full + "n = Conv<pads=[0,1,0,1]>(x, r) \n o = Conv<pads=[1,0,1,0]>(x, q) \n y = Sum(n, m, o)",
            c,
        ),
        text_model(image, "y", strided, c),
        text_model(big, "y", full + pooled, c),
        text_model(big, "y", dilated, c),
        text_model(image, "y", full + apart, c),
        text_model(image, "y", full + edge + "y = Add(m, o1)", c | z1),
        text_model("float[1,4,20] x", "y", "m = Conv<pads=[2,2], dilations=[2]>(x, w1) \n y = Add(m, x)",
                   {"w1": c["w"][..., 0]}),
    ]  # fmt: skip


@graph_pass(
    "merge-parallel-conv", atol=1e-5, cases=cases, ops=SUMS, phase="merge", after=("merge-parallel-affine",)
)
def merge_parallel_conv(graph: Graph, node: Node) -> int:
    if not is_root(graph, node):
        return 0  # the last node of the sum is the candidate
    reason = ""
    branches = [(term, starts(graph, term)) for term in terms(graph, node)]
    for keep, ways in branches:
        for drop, others in branches:
            fork = _fork(ways, others)
            if keep is drop or not drop.is_removable or fork is None:
                continue
            try:
                return _merge(graph, keep, drop, *fork)
            except Skip as skip:
                reason = reason or str(skip)
    raise Skip(reason or "its terms do not come from one tensor through linear operators")


def _merge(graph: Graph, keep: Term, drop: Term, fork: Tensor, one: Row, other: Row) -> int:
    """Merge both branches into one convolution in place of `keep`; raises Skip where no kernel is equal."""
    host = max((n for n in one if n.op == "Conv"), key=lambda n: value_of(n.inputs[1], "the weight").size)
    rank, channels = len(shape_of(host.inputs[1], "the weight")), _channels(fork, one, other)
    rows = [_kernels(row, channels, rank) for row in (one, other)]
    budget = sum(row_work(row) for row in rows)
    own, added = (reduce(lambda p, q: compose(p, q, budget), row) for row in rows)
    kernel = add(own, added, keep.sign * drop.sign)
    dtype = host.inputs[1].dtype
    require_storable(dtype, kernel.w, kernel.b)
    if len(drop.parent.inputs) > 2:
        del drop.parent.inputs[drop.index]
    else:
        bypass(graph, drop.parent, 1 - drop.index)
    result = one[-1].outputs[0]  # after `bypass`, which may rename it to the sum
    one[-1].outputs.clear()
    host.outputs = [result]
    write_convolution(graph, host, fork, kernel, dtype)
    kept = kept_names(graph)
    for node in (*reversed(one), *reversed(other)):
        if node is not host and not any(t.outputs or t.name in kept for t in node.outputs):
            detach(node)
    return 1


def _fork(ways: Ways, others: Ways) -> tuple[Tensor, Row, Row] | None:
    """(tensor, nodes, nodes) of the nearest tensor that both branches read; the first has a convolution."""
    ends = {id(tensor): row for tensor, row in others}
    for tensor, row in ways:
        if any(node.op == "Conv" for node in row) and id(tensor) in ends:
            return tensor, row, ends[id(tensor)]
    return None


def _channels(fork: Tensor, *rows: Row) -> int:
    """Channels of the forking tensor, from its shape or from the convolution that reads it."""
    for row in rows:
        if row and row[0].op == "Conv":
            weight = float_of(row[0].inputs[1], "the weight")
            return int(weight.shape[1]) * int(row[0].attrs.get("group", 1))
    if fork.shape is not None and len(fork.shape) > 1 and isinstance(fork.shape[1], int):
        return int(fork.shape[1])
    raise Skip("the number of channels is not known")


def _kernels(row: Row, channels: int, rank: int) -> list[Kernel]:
    kernels: list[Kernel] = []
    for node in row:
        kernels.append(kernel_of(node, kernels[-1].outputs if kernels else channels, rank))
    return kernels or [identity(channels, rank)]
