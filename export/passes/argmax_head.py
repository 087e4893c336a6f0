"""y = argmax_c(logits): segmentation returns class numbers, uint8 (N, H, W), at the resolution of the logits.

Upsampled logits would move class borders by less than one cell of the logits and cost more than the head of
the network; the task enlarges the map. Of equal logits the first wins. The output keeps its name.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgedeploy.export.graph_pass import Feeds, graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, Skip, displace, insert, kept_names, producer, variable


def cases(rng: Rng) -> Models:
    w = {"w": floats(rng, 5, 3, 3, 3)}
    return [
        text_model("float[1,3,8,6] x", "y", "y = Conv(x, w)", w),
        text_model("float[n,3,h,v] x", "y, z", "y = Conv(x, w) \n z = Relu(y)", w),
    ]


def old_outputs(outputs: Feeds, _: object) -> Feeds:
    name, logits = next(iter(outputs.items()))
    return {**outputs, name: np.argmax(logits, 1).astype(np.uint8)}


@graph_pass("argmax-head", atol=0.0, cases=cases, old_outputs=old_outputs)
def argmax_head(graph: Graph) -> int:
    result = graph.outputs[0]
    if result.shape is None or len(result.shape) != 4 or not isinstance(result.shape[1], int):
        raise Skip(f"the output '{result.name}' is not (N, classes, H, W)")
    if not 2 <= result.shape[1] <= 256:
        raise Skip(f"{result.shape[1]} classes are not 2 to 256")
    if producer(result) is None or sum(tensor is result for tensor in graph.outputs) != 1:
        raise Skip("the output is a graph input, or listed twice")
    if result.name in kept_names(graph) - {tensor.name for tensor in graph.outputs}:
        raise Skip("the output is read by the body of a control-flow node")
    batch, _, height, width = result.shape
    logits = variable(graph, f"{result.name}_logits", result.dtype, result.shape)
    displace(result, logits)
    numbers = variable(graph, f"{result.name}_int64", np.int64)
    insert(graph, "ArgMax", [logits], [numbers], axis=1, keepdims=0)
    insert(graph, "Cast", [numbers], [result], to=int(onnx.TensorProto.UINT8))
    result.dtype, result.shape = np.dtype(np.uint8), [batch, height, width]
    return 1
