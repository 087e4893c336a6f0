"""y = uint8(round(clip(255 x, 0, 255))): an image in [0, 1] leaves the graph as pixels, half to even."""

from __future__ import annotations

import numpy as np
import onnx

from edgedeploy.export.graph_pass import Feeds, graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Skip, constant, displace, dtype_name, insert, producer, variable


def cases(rng: Rng) -> Models:
    w = {"w": floats(rng, 4, 1, 3, 3)}
    body = 'a = Conv(x, w) \n y = DepthToSpace<blocksize=2, mode="CRD">(a)'
    return [
        text_model("float[1,1,8,6] x", "y", body, w),
        text_model("float[1,1,h,v] x", "y, z", f"{body} \n z = Relu(y)", w),
    ]


def old_outputs(outputs: Feeds, _: object) -> Feeds:
    name, image = next(iter(outputs.items()))
    return {**outputs, name: np.rint(np.clip(image * np.float32(255), 0, 255)).astype(np.uint8)}


@graph_pass("uint8-output", atol=0.0, cases=cases, old_outputs=old_outputs)
def uint8_output(graph: Graph) -> int:
    result = graph.outputs[0]
    if dtype_name(result) != "float32" or producer(result) is None:
        raise Skip(f"the output '{result.name}' is not a computed float32 tensor")
    image = variable(graph, f"{result.name}_float", np.float32, result.shape)
    displace(result, image)
    scaled, clipped, rounded = (
        variable(graph, f"{result.name}_{step}", np.float32, result.shape)
        for step in ("scaled", "clipped", "rounded")
    )
    white = constant(graph, "white", np.asarray(255.0), np.float32)
    black = constant(graph, "black", np.asarray(0.0), np.float32)
    insert(graph, "Mul", [image, white], [scaled])
    insert(graph, "Clip", [scaled, black, white], [clipped])
    insert(graph, "Round", [clipped], [rounded])
    insert(graph, "Cast", [rounded], [result], to=int(onnx.TensorProto.UINT8))
    result.dtype = np.dtype(np.uint8)
    return 1
