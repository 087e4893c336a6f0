"""sum_i q_i x_i = sum_i ((q_i + 128) - 128) x_i: operators on codes with unsigned weights, the same numbers.

ONNX Runtime computes operators on codes with the CPU's integer kernels, also unoptimized. Those for signed
weights saturate on x86 without VNNI (core/pair_sums.py), those for unsigned ones do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from edgedeploy.core.int8_layers import ON_CODES

ZERO_AFTER = 2  # from a weight's position to that of its zero-point
ACTIVATION_ZERO = 2  # position of the activation's zero-point, whose type is the activation's


def with_unsigned_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose operators on codes have uint8 weights for int8 ones; the model itself without such."""
    if not any(node.op_type in ON_CODES for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {entry.name: entry for entry in result.graph.initializer}
    for index, node in enumerate(result.graph.node):
        if node.op_type not in ON_CODES:
            continue
        weight = ON_CODES[node.op_type][1]
        places = (weight, weight + ZERO_AFTER)
        if not _of_type(node.input, weight, constants, onnx.TensorProto.INT8):
            continue
        if not _of_type(node.input, ACTIVATION_ZERO, constants, onnx.TensorProto.UINT8):
            continue  # the runtime has no kernel of signed activations and unsigned weights
        while len(node.input) <= places[1]:
            node.input.append("")
        zero = constants.get(node.input[places[1]])
        if node.input[places[1]] and zero is None:
            continue  # a computed zero-point
        for place, entry in ((places[0], constants[node.input[places[0]]]), (places[1], zero)):
            value = np.zeros((), np.int8) if entry is None else numpy_helper.to_array(entry)
            moved = (value.astype(np.int16) + 128).astype(np.uint8)
            name = f"{node.input[place]}_unsigned_{index}_{place}"
            result.graph.initializer.append(numpy_helper.from_array(moved, name))
            node.input[place] = name
    return result


def _of_type(inputs: Sequence[str], place: int, constants: dict[str, onnx.TensorProto], kind: int) -> bool:
    """Whether an input is a constant of this type."""
    entry = constants.get(inputs[place]) if len(inputs) > place else None
    return entry is not None and entry.data_type == kind
