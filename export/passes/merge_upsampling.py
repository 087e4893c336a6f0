"""T_r(f(T_q(x))) = DepthToSpace(B f(A x)): transposed convolutions of disjoint windows as 1x1 convolutions.

With kernel = stride, a pixel of x expands to a block of q x q pixels, and each of these to r x r. A has the
q^2 taps of T_q as channels, f is elementwise, B repeats the taps of T_r for each of the q^2 pixels, with
zeros between. Runtimes have faster kernels for 1x1 convolutions. Head of DBNet: Liao et al., AAAI 2020,
figure 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    constant,
    float_of,
    has,
    insert,
    is_constant,
    is_standard,
    producer,
    require_private,
    variable,
)

MOST = 1.5  # of the multiplications before: the zeros of B cost less than the removed tensor
ELEMENTWISE = frozenset({"Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})


def cases(rng: Rng) -> Models:
    c = {
        "w": floats(rng, 24, 6, 2, 2), "b": floats(rng, 6), "v": floats(rng, 6, 1, 2, 2), "a": floats(rng, 1),
        "d": floats(rng, 96, 6, 2, 2), "u": floats(rng, 6, 2, 3, 3),
        "low": np.float32(0), "high": np.float32(6),
    }  # fmt: skip
    up = "ConvTranspose<kernel_shape=[2,2], strides=[2,2]>"
    narrow, wide = "float[n,24,h,v] x", "float[1,96,4,5] x"
    clipped = "r = Clip(m, low, high) \n y = ConvTranspose<strides=[3,3]>(r, u)"
    return [
        text_model(narrow, "y", f"m = {up}(x, w, b) \n r = Relu(m) \n y = {up}(r, v, a)", c),
        text_model(narrow, "y", f"m = {up}(x, w) \n t = {up}(m, v) \n y = Sigmoid(t)", c),
        text_model(wide, "y", f"m = {up}(x, d, b) \n {clipped}", c),
    ]


@graph_pass("merge-upsampling", atol=1e-5, cases=cases, ops=("ConvTranspose",), phase="merge")
def merge_upsampling(graph: Graph, node: Node) -> int:
    between = [node.inputs[0]]
    while (first := producer(between[-1])) is not None and first.op in ELEMENTWISE and is_standard(first):
        if not all(is_constant(tensor) or tensor.is_empty() for tensor in first.inputs[1:]):
            raise Skip(f"'{first.name}' has limits that are not constants")
        between.append(first.inputs[0])
    if first is None or first.op != "ConvTranspose" or not is_standard(first):
        raise Skip("it does not follow a transposed convolution")
    for tensor in between:
        require_private(graph, tensor)
    v, w = _taps(node), _taps(first)  # (in, out, size, size)
    q, r = w.shape[2], v.shape[2]
    before = w.size + q**2 * v.size  # multiplications per pixel of x
    after = w.size + q**4 * v.size
    if after > MOST * before:
        raise Skip(f"merged it would take {after} multiplications per place instead of {before}")
    _rewrite(graph, first, w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]), q**2)
    rows = np.zeros((q, r, q, r, v.shape[1], q, q, v.shape[0]))
    for i, j in np.ndindex(q, q):
        rows[i, :, j, :, :, i, j] = v.transpose(2, 3, 1, 0)
    result = node.outputs[0]
    blocks = variable(graph, f"{result.name}_blocks", result.dtype)
    _rewrite(graph, node, rows.reshape((q * r) ** 2 * v.shape[1], -1), (q * r) ** 2)
    node.outputs[0] = blocks
    insert(graph, "DepthToSpace", [blocks], [result], blocksize=q * r)
    for tensor in between:
        tensor.shape = None
    return 1


def _taps(node: Node) -> NDArray[np.float64]:
    """The weight of a transposed convolution of disjoint square windows; raises Skip for others."""
    w = float_of(node.inputs[1], f"the weight of '{node.name}'")
    plain = {"auto_pad": "NOTSET", "group": 1, "output_shape": None}
    lists = {"pads": 0, "output_padding": 0, "dilations": 1}
    usual = all(node.attrs.get(key, value) == value for key, value in plain.items())
    usual &= all({*node.attrs.get(key, [value])} == {value} for key, value in lists.items())
    if w.ndim != 4 or w.shape[2] != w.shape[3] or list(node.attrs.get("strides", [1, 1])) != [*w.shape[2:]]:
        raise Skip(f"the windows of '{node.name}' are not squares side by side")
    if not usual:
        raise Skip(f"'{node.name}' pads, dilates, has groups or a size of its own")
    return w


def _rewrite(graph: Graph, node: Node, rows: NDArray[np.float64], repeats: int) -> None:
    """Turn a transposed convolution into a 1x1 convolution with weights `rows`; every tap gets the bias."""
    weight = node.inputs[1]
    inputs = [node.inputs[0], constant(graph, weight.name, rows[:, :, None, None], weight.dtype)]
    if has(node, 2):
        b = float_of(node.inputs[2], f"the bias of '{node.name}'")
        inputs.append(constant(graph, node.inputs[2].name, np.tile(b, repeats), weight.dtype))
    node.op, node.inputs = "Conv", inputs
    node.attrs.clear()
    node.attrs.update(kernel_shape=[1, 1], strides=[1, 1])
