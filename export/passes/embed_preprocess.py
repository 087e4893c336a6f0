"""Embed y = (x - mean) / std, so that the graph takes pixels 0..255.

Sub and Mul are inserted after the input. Then 1/std folds into the weights of the first convolution, and mean
into its bias if the convolution does not pad. Padding with 0 in y is padding with mean in pixels: equal means
become a Pad with that value, different means stay a Sub on the input. With uint8_input the graph takes uint8
NHWC, the format of cameras and decoders.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx

from edgedeploy.export.affine.search import fold
from edgedeploy.export.affine.value import Array
from edgedeploy.export.graph_pass import Feeds, graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    dtype_name,
    insert,
    is_constant,
    kept_names,
    redirect,
    shape_of,
    variable,
)

AXES = {"NHWC->NCHW": [0, 3, 1, 2], "NCHW->NHWC": [0, 2, 3, 1]}


@dataclass(frozen=True)
class PreprocessOptions:
    """mean and std are per channel on pixels 0..255, in the order of the network's channels."""

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    uint8_input: bool = False


def cases(rng: Rng) -> Models:
    weights = {"w": floats(rng, 8, 3, 3, 3), "b": floats(rng, 8)}
    padded, bare = "y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, b)", "y = Conv(x, w)"
    two = "y = Conv(x, w) \n z = Relu(x)"
    bodies = [(padded, "y"), (bare, "y"), (two, "y, z")]
    options = [
        PreprocessOptions(),
        PreprocessOptions(uint8_input=True),
        PreprocessOptions((0.0,), (255.0,)),
        PreprocessOptions((127.5,), (128.0,), uint8_input=True),
    ]
    return [
        (text_model(image, names, body, weights), choice)
        for image, (body, names) in zip(("float[n,3,h,v] x", *["float[1,3,9,12] x"] * 2), bodies, strict=True)
        for choice in options
    ]


def old_feeds(feeds: Feeds, options: PreprocessOptions) -> Feeds:
    """Pixels -> the feeds before the pass, computed in float64."""
    name, pixels = next(iter(feeds.items()))
    x = pixels.transpose(AXES["NHWC->NCHW"]) if options.uint8_input else pixels
    mean, std = _columns(options, x.shape[1])
    return {**feeds, name: ((x.astype(np.float64) - mean) / std).astype(np.float32)}


def new_feeds(feeds: Feeds, options: PreprocessOptions) -> Feeds:
    """The pixels nearest to the feeds before the pass."""
    name, x = next(iter(feeds.items()))
    mean, std = _columns(options, x.shape[1])
    pixels = x.astype(np.float64) * std + mean
    if options.uint8_input:
        whole = np.rint(pixels).clip(0, 255).astype(np.uint8)
        return {**feeds, name: np.ascontiguousarray(whole.transpose(AXES["NCHW->NHWC"]))}
    return {**feeds, name: pixels.astype(np.float32)}


@graph_pass(
    "embed-preprocess",
    atol=1e-5,
    cases=cases,
    options=PreprocessOptions,
    new_feeds=new_feeds,
    old_feeds=old_feeds,
)
def embed_preprocess(graph: Graph, options: PreprocessOptions) -> int:
    x = graph.inputs[0]
    if x.shape is None or len(x.shape) != 4 or not isinstance(x.shape[1], int):
        raise Skip(f"the input '{x.name}' is not an image in NCHW")
    if dtype_name(x) != "float32":
        raise Skip(f"the input '{x.name}' is {dtype_name(x)}")
    if x.name in kept_names(graph):
        raise Skip("the input is read by the body of a control-flow node")
    mean, std = _columns(options, x.shape[1])
    if not np.any(mean) and np.all(std == 1) and not options.uint8_input:
        return 0
    pixels = _uint8_input(graph, x) if options.uint8_input else x
    readers = list(pixels.outputs)
    if len(readers) == 1 and np.any(mean) and np.all(mean == mean.flat[0]):
        pixels = _padded(graph, readers[0], pixels, mean.flat[0])
    shape, dtype = shape_of(pixels, "the input"), np.float32
    centered, scaled = (
        variable(graph, f"preprocess_{name}", dtype, shape) for name in ("centered", "scaled")
    )
    redirect(pixels, scaled)
    middle = constant(graph, "preprocess_mean", mean, dtype)
    factor = constant(graph, "preprocess_factor", 1 / std, dtype)
    subtract = insert(graph, "Sub", [pixels, middle], [centered])
    multiply = insert(graph, "Mul", [centered, factor], [scaled])
    for node in (multiply, subtract):
        with suppress(Skip):  # a node that does not fold into a convolution stays
            fold(graph, node, ("Conv",))
    return 1


def _padded(graph: Graph, reader: Node, pixels: Tensor, mean: float) -> Tensor:
    """Replace the padding of the consuming convolution by a Pad of the pixels with `mean`.

    The pixels are returned unchanged for auto_pad and for computed weights.
    """
    constants = all(is_constant(tensor) for tensor in reader.inputs[1:])
    if reader.op != "Conv" or not any(reader.attrs.get("pads", ())) or not constants:
        return pixels
    half, shape = len(reader.attrs["pads"]) // 2, [*shape_of(pixels, "the input")[:2], None, None]
    begin, end = reader.attrs["pads"][:half], reader.attrs["pads"][half:]
    pads = constant(graph, "preprocess_pads", np.array([0, 0, *begin, 0, 0, *end], np.int64))
    filler = constant(graph, "preprocess_mean", np.asarray(mean), np.float32)
    padded = variable(graph, "preprocess_padded", np.float32, shape)
    redirect(pixels, padded)
    insert(graph, "Pad", [pixels, pads, filler], [padded], mode="constant")
    reader.attrs["pads"] = [0] * (2 * half)
    return padded


def _uint8_input(graph: Graph, x: Tensor) -> Tensor:
    """Make the graph input uint8 NHWC; returns the float NCHW tensor that its consumers now read.

    Cast precedes Transpose: TensorRT takes uint8 only as a network input.
    """
    shape = shape_of(x, "the input")
    real = variable(graph, f"{x.name}_float", np.float32)
    planar = variable(graph, f"{x.name}_nchw", np.float32, shape)
    redirect(x, planar)
    insert(graph, "Cast", [x], [real], at=0, to=int(onnx.TensorProto.FLOAT))
    insert(graph, "Transpose", [real], [planar], at=1, perm=AXES["NHWC->NCHW"])
    x.dtype, x.shape = np.dtype(np.uint8), [shape[axis] for axis in AXES["NCHW->NHWC"]]
    return planar


def _columns(options: PreprocessOptions, channels: int) -> tuple[Array, Array]:
    mean, std = (np.broadcast_to(np.asarray(v, np.float64), channels) for v in (options.mean, options.std))
    return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)
