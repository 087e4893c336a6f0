"""DeformConv(x, w, o, m) = Conv1x1(GridSample(x, p + o) m, w): for runtimes that lack the operator.

TensorRT-RTX 1.7 has no DeformConv. All taps are sampled side by side, (N, C k k, h, w), which costs memory.
The pass is for float32 graphs, before to-fp16, and for targets whose `unsupported_ops` name the operator.

Positions are added in pixels, as DeformConv adds them, so that both round alike; scaling comes afterward. At
sizes that are powers of two the scaling is exact: 1e-4 of max |y| holds at 4096. At others GridSample's own
float32 scaling back to pixels rounds once more: 1e-4 at a width of 1000, 3e-4 at 4000.
ONNX DeformConv-19, GridSample-16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.shapes import is_static
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    detach,
    dtype_name,
    float_of,
    has,
    insert,
    variable,
)

LINEAR_SINCE = 20  # GridSample called the mode "bilinear" before


def cases(rng: Rng) -> Models:
    c = {
        "w": floats(rng, 5, 4, 3, 3),
        "b": floats(rng, 5),
        "g": floats(rng, 6, 2, 3, 3),
        "v": floats(rng, 5, 4, 1, 2),
    }
    same = "float[2,4,7,9] x, float[2,18,7,9] o, float[2,9,7,9] m"
    pads = "pads=[1,1,1,1]"
    half = "float[1,4,8,9] x, float[1,18,4,5] o"
    wide = "float[1,4,6,7] x, float[1,4,6,4] o"
    return [
        text_model(same, "y", f"y = DeformConv<{pads}>(x, w, o, b, m)", c),
        text_model(same, "y", f"y = DeformConv<{pads}, group=2>(x, g, o, , m)", c),
        text_model(half, "y", f"y = DeformConv<{pads}, strides=[2,2]>(x, w, o)", c),
        text_model(half, "y", f"y = DeformConv<{pads}, strides=[2,2]>(x, w, o, b)", c, opset=19),
        text_model(wide, "y", "y = DeformConv<pads=[0,1,0,1], strides=[1,2], dilations=[1,2]>(x, v, o)", c),
    ]


@graph_pass("lower-deform-conv", atol=1e-4, cases=cases, ops=("DeformConv",))
def lower_deform_conv(graph: Graph, node: Node) -> int:
    x, w, offset = node.inputs[:3]
    if dtype_name(x) != "float32":
        raise Skip(f"the input is {dtype_name(x) or 'of unknown type'}")
    if node.attrs.get("offset_group", 1) != 1:
        raise Skip("its channels move in several groups")
    weight = float_of(w, "the weight")
    n, channels, height, width = _sizes(x, "the input")
    _, _, rows, columns = _sizes(offset, "the offset")
    outputs, _, *kernel = weight.shape
    taps = int(np.prod(kernel))

    # (N, taps, (dy, dx), pixels) -> (N, taps, pixels, (x, y)) in GridSample's units of -1 to 1.
    moved = _reshape(graph, offset, (n, taps, 2, rows * columns))
    moved = _node(graph, "Transpose", [moved], perm=[0, 1, 3, 2])
    moved = _node(graph, "Gather", [moved, constant(graph, "swap", np.array([1, 0]))], axis=3)
    pixels = _tap_positions(node, kernel, (rows, columns))
    moved = _node(graph, "Add", [moved, constant(graph, "pixels", pixels, np.float32)])
    size = np.array([width, height])
    moved = _node(graph, "Sub", [moved, constant(graph, "center", (size - 1) / 2, np.float32)])
    grid = _node(graph, "Div", [moved, constant(graph, "half_size", size / 2, np.float32)])
    mode = "linear" if graph.opset >= LINEAR_SINCE else "bilinear"
    samples = _node(graph, "GridSample", [x, grid], mode=mode, padding_mode="zeros", align_corners=0)
    if has(node, 4):
        mask = _reshape(graph, node.inputs[4], (n, 1, taps, rows * columns))
        samples = _node(graph, "Mul", [samples, mask])
    samples = _reshape(graph, samples, (n, channels * taps, rows, columns))
    flat = constant(graph, f"{w.name}_taps", weight.reshape(outputs, -1, 1, 1), np.float32)
    result = node.outputs[0]
    inputs = [samples, flat, *([node.inputs[3]] if has(node, 3) else [])]
    group = node.attrs.get("group", 1)
    detach(node)
    insert(graph, "Conv", inputs, [result], kernel_shape=[1, 1], group=group)
    return 1


def _tap_positions(node: Node, kernel: Sequence[int], out: tuple[int, int]) -> NDArray[np.float64]:
    """Sampling positions without offsets, in pixels: (1, taps, out height * out width, (x, y))."""
    strides, pads = node.attrs.get("strides", [1, 1]), node.attrs.get("pads", [0, 0, 0, 0])
    dilations = node.attrs.get("dilations", [1, 1])
    y, x = (
        np.arange(out[axis]) * strides[axis] - pads[axis] + np.arange(kernel[axis])[:, None] * dilations[axis]
        for axis in (0, 1)
    )  # (kernel, out) of each axis
    pairs = np.broadcast_arrays(x[None, :, None, :], y[:, None, :, None])
    return np.stack(pairs, axis=-1).reshape(1, kernel[0] * kernel[1], out[0] * out[1], 2)


def _sizes(tensor: Tensor, what: str) -> tuple[int, int, int, int]:
    shape = tensor.shape
    if not is_static(shape) or len(shape) != 4:
        raise Skip(f"{what} has no fixed size")
    n, channels, height, width = shape
    return n, channels, height, width


def _node(graph: Graph, op: str, inputs: list[Tensor], **attrs: Any) -> Tensor:
    output = variable(graph, f"deform_{op.lower()}", inputs[0].dtype)
    insert(graph, op, inputs, [output], **attrs)
    return output


def _reshape(graph: Graph, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return _node(graph, "Reshape", [tensor, constant(graph, "shape", np.array(shape, np.int64))])
