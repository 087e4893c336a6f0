"""w -> Cast(float16(w)) to float32: constants take half the bytes, and operators compute in float32.

Rounding changes w by at most 2^-11 of each value. Runtimes run the Cast once, when they load the file. Not
rewritten: constants of fewer than 64 values, and constants outside the range of float16.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgedeploy.export.graph_pass import Skip, graph_pass
from edgedeploy.export.match.keep_float32 import fits_float16
from edgedeploy.export.samples import Models, Rng, floats, text_model
from edgedeploy.graphs.surgeon import Graph, constant, insert, is_constant, variable

FEWEST = 64  # values; for fewer, the Cast costs as many bytes as it saves


def cases(rng: Rng) -> Models:
    c = {"w": floats(rng, 8, 3, 3, 3), "v": floats(rng, 8, 8, 1, 1), "b": floats(rng, 8)}
    return [
        text_model("float[1,3,h,v] x", "y", "a = Conv(x, w, b) \n r = Relu(a) \n y = Conv(r, v)", c),
        text_model("float[1,3,9,8] x", "y, z", "y = Conv(x, w, b) \n z = Conv(x, w)", c),
    ]


@graph_pass("store-half", atol=2e-2, cases=cases)
def store_half(graph: Graph) -> int:
    halves = {}
    for node in list(graph.nodes):
        for place, tensor in enumerate(node.inputs):
            if tensor.is_empty() or not is_constant(tensor) or tensor.dtype != np.float32:
                continue
            if tensor.name not in halves:
                values = np.asarray(tensor.values)
                if values.size < FEWEST or not fits_float16(values):
                    continue
                stored = constant(graph, f"{tensor.name}_half", values, np.float16)
                full = variable(graph, f"{tensor.name}_full", np.dtype(np.float32), values.shape)
                insert(graph, "Cast", [stored], [full], to=int(onnx.TensorProto.FLOAT))
                halves[tensor.name] = full
            node.inputs[place] = halves[tensor.name]
    if not halves:
        raise Skip("no constant is worth it")
    return len(halves)
