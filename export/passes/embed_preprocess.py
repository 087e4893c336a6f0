"""y = (x - mean) / std moves into the graph, which then takes pixels 0..255.

1/std always joins the first convolution's weights, and mean its bias where nothing is padded. Padding must be
0 in y, which in pixels is mean: equal means become an explicit Pad with that value, different ones stay one
Sub on the input. With uint8_input the graph takes uint8 NHWC, as cameras and decoders give it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgedeploy.export.affine.fold import Vector, absorb, is_padded
from edgedeploy.export.graph_pass import Feeds, graph_pass
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    dtype_name,
    has,
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


def cases(rng: np.random.Generator) -> Sequence[tuple[onnx.ModelProto, PreprocessOptions]]:
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
    """Pixels -> what the network was fed before, computed in float64."""
    name, pixels = next(iter(feeds.items()))
    x = pixels.transpose(AXES["NHWC->NCHW"]) if options.uint8_input else pixels
    mean, std = _columns(options, x.shape[1])
    return {**feeds, name: ((x.astype(np.float64) - mean) / std).astype(np.float32)}


def new_feeds(feeds: Feeds, options: PreprocessOptions) -> Feeds:
    """The pixels nearest to what the network was fed before."""
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
    mean, std = (np.broadcast_to(np.asarray(v, np.float64), x.shape[1]) for v in (options.mean, options.std))
    if not np.any(mean) and np.all(std == 1) and not options.uint8_input:
        return 0
    readers = list(x.outputs)
    only = readers[0] if len(readers) == 1 else None
    if only is not None and (only.op != "Conv" or only.inputs[0] is not x or not _has_constant_weights(only)):
        only = None
    pixels = _uint8_input(graph, x) if options.uint8_input else x
    if only is not None:
        _into_convolution(graph, only, pixels, mean, std)
    else:
        _explicitly(graph, readers, x, pixels, mean, std)
    return 1


def _has_constant_weights(reader: Node) -> bool:
    return is_constant(reader.inputs[1]) and (not has(reader, 2) or is_constant(reader.inputs[2]))


def _into_convolution(graph: Graph, reader: Node, x: Tensor, mean: Vector, std: Vector) -> None:
    reader.inputs[0] = x
    if not (np.any(mean) and is_padded(reader)):
        absorb(graph, reader, x, 1 / std, -mean / std)
    elif np.all(mean == mean[0]) and "pads" in reader.attrs:  # not where auto_pad depends on the size
        half = len(reader.attrs["pads"]) // 2
        begin, end = reader.attrs["pads"][:half], reader.attrs["pads"][half:]
        pads = constant(graph, "preprocess_pads", np.array([0, 0, *begin, 0, 0, *end], np.int64))
        filler = constant(graph, "preprocess_mean", np.asarray(mean[0]), np.float32)
        padded = variable(graph, "preprocess_padded", np.float32)
        insert(graph, "Pad", [x, pads, filler], [padded], mode="constant")
        reader.inputs[0] = padded
        reader.attrs["pads"] = [0] * (2 * half)
        absorb(graph, reader, padded, 1 / std, -mean / std)
    else:
        centered = variable(graph, "preprocess_centered", np.float32)
        middle = constant(graph, "preprocess_mean", mean.reshape(1, -1, 1, 1), np.float32)
        insert(graph, "Sub", [x, middle], [centered])
        reader.inputs[0] = centered
        absorb(graph, reader, centered, 1 / std, np.zeros_like(mean))


def _explicitly(graph: Graph, readers: list[Node], old: Tensor, x: Tensor, mean: Vector, std: Vector) -> None:
    centered, scaled = (variable(graph, f"preprocess_{name}", np.float32) for name in ("centered", "scaled"))
    for node in readers:
        for index, tensor in enumerate(node.inputs):
            if tensor is old or tensor is x:
                node.inputs[index] = scaled
    middle = constant(graph, "preprocess_mean", mean.reshape(1, -1, 1, 1), np.float32)
    factor = constant(graph, "preprocess_factor", (1 / std).reshape(1, -1, 1, 1), np.float32)
    insert(graph, "Sub", [x, middle], [centered])
    insert(graph, "Mul", [centered, factor], [scaled])


def _uint8_input(graph: Graph, x: Tensor) -> Tensor:
    """Make the graph's input uint8 NHWC; returns the float NCHW tensor that its readers now read.

    Cast comes first: TensorRT takes uint8 at the network's border only.
    """
    shape = shape_of(x, "the input")
    real = variable(graph, f"{x.name}_float", np.float32)
    planar = variable(graph, f"{x.name}_nchw", np.float32, shape)
    redirect(x, planar)
    insert(graph, "Cast", [x], [real], at=0, to=int(onnx.TensorProto.FLOAT))
    insert(graph, "Transpose", [real], [planar], at=1, perm=AXES["NHWC->NCHW"])
    x.dtype, x.shape = np.dtype(np.uint8), [shape[axis] for axis in AXES["NCHW->NHWC"]]
    return planar


def _columns(options: PreprocessOptions, channels: int) -> tuple[Vector, Vector]:
    mean, std = (np.broadcast_to(np.asarray(v, np.float64), channels) for v in (options.mean, options.std))
    return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)
