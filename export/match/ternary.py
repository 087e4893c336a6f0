"""Tensors that hold only -1, 0 and 1 for every input: signs, comparisons as numbers, sign weights.

int8 holds such values exactly: a matrix product of two such tensors is exact without calibration.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.graphs.surgeon import FLOATS, Node, Tensor, dtype_name, is_constant, is_standard, producer

# Operators that only move values; the first input is the data.
MOVES = frozenset(
    {"Reshape", "Transpose", "Split", "Slice", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Gather"}
)


def is_ternary(tensor: Tensor) -> bool:
    """Whether every value is known to be -1, 0 or 1."""
    while not is_constant(tensor):
        maker = producer(tensor)
        if maker is None or not is_standard(maker):
            return False
        if maker.op == "Sign":
            return True
        if maker.op == "Cast" and dtype_name(maker.inputs[0]) == "bool":
            return True
        if maker.op == "DequantizeLinear":
            return _is_unit_scale(maker) and is_constant(maker.inputs[0]) and is_ternary(maker.inputs[0])
        if maker.op not in MOVES and not (maker.op == "Cast" and dtype_name(maker.inputs[0]) in FLOATS):
            return False
        tensor = maker.inputs[0]
    return bool(ternary_values(np.asarray(tensor.values)))


def ternary_values(values: NDArray[Any]) -> bool:
    """Whether an array holds only -1, 0 and 1."""
    return values.dtype.kind in "fi" and bool(np.isin(values, (-1, 0, 1)).all())


def _is_unit_scale(node: Node) -> bool:
    """Whether the scale of a QuantizeLinear or DequantizeLinear is 1."""
    scale = node.inputs[1]
    return is_constant(scale) and bool(np.all(np.asarray(scale.values) == 1))
