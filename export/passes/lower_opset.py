"""Lower the opset by the converter of onnx, for runtimes that read only older opsets.

TensorRT before 10 misreads newer opsets without an error: the axes of ReduceMean became an input in opset 18,
and the parser of 8.5 averages over all axes. Where the converter lacks an adapter for the requested opset,
the nearest possible opset is written, say 14 for 13. onnx-tensorrt, release/8.5-GA, builtin_op_importers.cpp.
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
    """`opset` is the newest that the runtime reads."""

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
    """Convert the graph to an opset; returns the reason where that is not possible."""
    try:
        convert(graph, opset)
    except Skip as reason:
        return reason
    return None
