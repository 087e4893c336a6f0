"""The same graph in an older opset, by onnx's own converter: for a runtime that reads no newer one.

TensorRT before 10 does not refuse newer opsets, it misreads them: ReduceMean's axes became an input in opset
18, and its parser of 8.5 takes the mean over everything. As far down as the converter has adapters for all
operators: 14, say, where 13 was asked for. onnx-tensorrt, release/8.5-GA, builtin_op_importers.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.opset import convert, require_convertible
from edgedeploy.graphs.surgeon import Graph, Skip


@dataclass(frozen=True)
class NewestOpset:
    """The newest opset that the runtime reads; the graph is brought there, or as near as can be."""

    opset: int = 17


def cases(rng: Rng) -> Models:
    w = {"w": floats(rng, 4, 3, 3, 3), "axes": np.array([2, 3]), "up": np.array([1, 1, 2, 2], np.float32)}
    mean = "c = Conv(x, w) \n y = ReduceMean(c, axes)"
    resized = 'c = Resize<mode="nearest">(x, , up) \n r = Relu(c) \n y = HardSwish(r)'
    image = "float[n,3,h,v] x"
    return [
        (text_model(image, "y", mean, w), NewestOpset()),
        (text_model(image, "y", resized, w), NewestOpset()),
        (text_model(image, "y", "y = ReduceMax(x, axes)", w), NewestOpset(13)),
        (text_model(image, "y", mean.replace("c =", "e = Relu(x) \n c =", 1).replace("(x, w)", "(e, w)"), w),
         NewestOpset(13)),
    ]  # fmt: skip


@graph_pass("lower-opset", atol=1e-6, cases=cases, options=NewestOpset)
def lower_opset(graph: Graph, options: NewestOpset) -> int:
    if graph.opset <= options.opset:
        raise Skip(f"the graph has opset {graph.opset} already")
    require_convertible(graph)
    refusals = []
    for opset in range(options.opset, graph.opset):
        refusal = _refusal(graph, opset)
        if refusal is None:
            return 1
        refusals.append(refusal)
    raise refusals[0]


def _refusal(graph: Graph, opset: int) -> Skip | None:
    """Bring the graph to an opset, or say why that cannot be."""
    try:
        convert(graph, opset)
    except Skip as reason:
        return reason
    return None
