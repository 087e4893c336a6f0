"""quantize(move(x)) = move(quantize(x)) for operators that only move values, which then move bytes.

All consumers of all outputs of the move must quantize with the same scalar scale and zero point.
"""

from __future__ import annotations

import numpy as np

from edgedeploy.export.graph_pass import graph_pass
from edgedeploy.export.match.ternary import MOVES
from edgedeploy.export.samples import Models, Rng, text_model
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    detach,
    insert,
    is_constant,
    kept_names,
    producer,
    redirect,
    value_of,
    variable,
)


def cases(rng: Rng) -> Models:
    w = {
        "s": np.float32(np.exp(rng.standard_normal()) / 20),
        "z": np.int8(0),
        "u": np.uint8(rng.integers(0, 255)),
        "shape": np.array([2, 3, 10]),
    }
    ends = "y = DequantizeLinear(q, s, z)"
    split = (
        "a, b = Split<axis=2, num_outputs=2>(t) \n q = QuantizeLinear(a, s, u) \n r = QuantizeLinear(b, s, u)"
    )
    back = "y = DequantizeLinear(q, s, u) \n z2 = DequantizeLinear(r, s, u)"
    return [
        text_model(
            "float[2,5,6] x", "y", f"a = Reshape(x, shape) \n q = QuantizeLinear(a, s, z) \n {ends}", w
        ),
        text_model("float[2,5,6] x", "y, z2", f"t = Tanh(x) \n {split} \n {back}", w),
    ]


@graph_pass("hoist-quantize", atol=0.0, cases=cases, ops=("QuantizeLinear",))
def hoist_quantize(graph: Graph, node: Node) -> int:
    move = producer(node.inputs[0])
    if move is None or move.op not in MOVES:
        raise Skip("nothing moves values before it")
    if is_constant(move.inputs[0]):
        raise Skip("it quantizes a constant")
    parameters, kept = _parameters(node), kept_names(graph)
    readers = [reader for tensor in move.outputs for reader in tensor.outputs]
    if any(tensor.name in kept for tensor in move.outputs):
        raise Skip(f"what {move.op} gives is read from outside the graph")
    if any(reader.op != "QuantizeLinear" or _parameters(reader) != parameters for reader in readers):
        raise Skip(f"what {move.op} gives is read in other ways too")
    if any(reader.outputs[0].name in kept for reader in readers):
        raise Skip("the quantized tensor is an output")
    source, dtype = move.inputs[0], node.outputs[0].dtype
    stored = variable(graph, f"{source.name}_quantized", dtype, source.shape)
    insert(graph, "QuantizeLinear", [source, *node.inputs[1:]], [stored], **node.attrs)
    moved = [variable(graph, f"{tensor.name}_quantized", dtype, tensor.shape) for tensor in move.outputs]
    insert(graph, move.op, [stored, *move.inputs[1:]], moved, **move.attrs)
    for old, new in zip(list(move.outputs), moved, strict=True):
        for reader in list(old.outputs):
            redirect(reader.outputs[0], new)
            detach(reader)
    detach(move)
    return 1


def _parameters(node: Node) -> tuple[object, ...]:
    """Scale, zero point and attributes of a quantization; raises Skip where they are not scalar constants."""
    constants = [value_of(entry, "its scale or zero point") for entry in node.inputs[1:]]
    if any(values.ndim for values in constants):
        raise Skip("its scale is not one constant")
    return (*((v.item(), str(v.dtype)) for v in constants), tuple(sorted(node.attrs.items())))
