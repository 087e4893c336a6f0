"""sum_i q_i x_i = sum_i ((q_i + 128) - 128) x_i: operators on codes with unsigned weights, the same numbers.

ONNX Runtime computes operators on codes with the CPU's integer kernels, also unoptimized. Those for signed
weights saturate on x86 without VNNI (core/pair_sums.py), those for unsigned ones do not.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgedeploy.core.int8_layers import ON_CODES
from edgedeploy.graphs.edit import GraphEditor, copy_model
from edgedeploy.graphs.view import GraphView

ZERO_AFTER = 2  # from a weight's position to that of its zero-point
ACTIVATION_ZERO = 2  # position of the activation's zero-point, whose type is the activation's


def with_unsigned_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose operators on codes have uint8 weights for int8 ones; the model itself without such."""
    if not any(node.op_type in ON_CODES for node in model.graph.node):
        return model
    view = GraphView(copy_model(model))
    editor = GraphEditor(view)
    for index, node in enumerate(view.nodes):
        if node.op_type not in ON_CODES:
            continue
        weight = ON_CODES[node.op_type][1]
        zero = weight + ZERO_AFTER
        if not _of_type(view, index, weight, onnx.TensorProto.INT8):
            continue
        if not _of_type(view, index, ACTIVATION_ZERO, onnx.TensorProto.UINT8):
            continue  # the runtime has no kernel of signed activations and unsigned weights
        while len(node.input) <= zero:
            node.input.append("")
        if node.input[zero] and node.input[zero] not in view.constants:
            continue  # a computed zero-point
        for position in (weight, zero):
            name = node.input[position]
            value = np.asarray(view.value(name)) if name else np.zeros((), np.int8)
            moved = (value.astype(np.int16) + 128).astype(np.uint8)
            editor.read(index, position, editor.constant(f"{name}_unsigned", moved))
    return view.model


def _of_type(view: GraphView, index: int, position: int, kind: int) -> bool:
    """Whether an input is a constant of this type."""
    inputs = view.nodes[index].input
    entry = view.constants.get(inputs[position]) if len(inputs) > position else None
    return entry is not None and entry.data_type == kind
