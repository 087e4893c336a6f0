"""Raise the opset by the converter of onnx, so that passes can write newer operators.

On request only: a runtime that reads opset 11 may not read 20. Not rewritten: operators of other domains,
local functions and bodies, which the converter cannot convert. `lower-opset` lowers the opset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.opset import convert, require_convertible
from edgedeploy.graphs.surgeon import Graph, Skip


@dataclass(frozen=True)
class OpsetOptions:
    """`opset` is the target; 20 is the first with Gelu."""

    opset: int = 20


def cases(_: Rng) -> Models:
    body = "a = Clip<min=0.0, max=6.0>(x) \n s = ReduceMean<axes=[2, 3]>(a) \n y = Softmax<axis=1>(s)"
    pad = "a = Pad<pads=[0,0,1,1,0,0,1,1]>(x) \n b = Upsample(a, k) \n y = Squeeze<axes=[0]>(b)"
    w = {"k": np.array([1, 1, 2, 2], np.float32)}
    return [
        (text_model("float[n,3,h,v] x", "y", body, {}, opset=9), OpsetOptions(17)),
        (text_model("float[2,3,4,6] x", "y", body, {}, opset=10), OpsetOptions()),
        (text_model("float[1,3,4,6] x", "y", pad, w, opset=9), OpsetOptions(13)),
    ]


@graph_pass("convert-opset", atol=1e-6, cases=cases, options=OpsetOptions)
def convert_opset(graph: Graph, options: OpsetOptions) -> int:
    if graph.opset >= options.opset:
        raise Skip(f"the graph has opset {graph.opset} already")
    require_convertible(graph)
    convert(graph, options.opset)
    return 1
