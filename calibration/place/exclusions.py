"""Reasons to keep a weighted operator in float, in one line each.

The channel rules are those of NVIDIA Model-Optimizer (onnx/quantization/graph_utils.py): a layer that does
not fill a tile of INT8 arithmetic pays for conversions and gains nothing.
"""

from __future__ import annotations

import math
from itertools import chain

from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.calibration.place.weights import on_grid
from edgedeploy.core.operators import ACTIVATIONS, CONVOLUTIONS
from edgedeploy.graphs.view import GraphView, attribute

TILE = 16  # least channels of a matrix product that is not thin
ALIGNED = 8
# Norm or bias between a transposed convolution and its activation.
_BETWEEN = frozenset({"BatchNormalization", "Add"})


def why_excluded(view: GraphView, index: int, rules: RuleSet) -> str | None:
    """Why a weighted operator stays in float; None if it is quantized."""
    node = view.nodes[index]
    activation, weight = node.input[0], node.input[1]
    if weight not in view.constants:
        return f"weight '{weight}' is not a constant"
    if not view.is_activation(activation):
        return f"input '{activation}' is not a computed float32 tensor"
    values = view.value(weight)
    if values.dtype != "float32":
        return f"weight '{weight}' is {values.dtype}, not float32: calibrate before lowering the precision"
    if not math.isfinite(float(abs(values).max(initial=0.0))):
        return f"weight '{weight}' holds NaN or infinity"
    if not rules.first and not weighted_before(view, index, rules):
        return "first layer (rule 'first' is off)"
    # A last layer trained for INT8 is exact in INT8.
    if not rules.last and not trained_for_int8(view, index) and not weighted_after(view, index, rules):
        return "last layer (rule 'last' is off)"
    if node.op_type in rules.float_before_activation and activation_after(view, index):
        return "an activation follows, and TensorRT 10 computed such a layer wrongly (P13)"
    if not rules.small_channels:
        return None
    return why_thin(view, index, rules)


def why_thin(view: GraphView, index: int, rules: RuleSet) -> str | None:
    """Why a weighted operator, quantized or not, is too thin to gain by INT8 (P9); None if it is not."""
    if view.nodes[index].op_type in CONVOLUTIONS:
        return _thin_convolution(view, index, rules)
    return _thin_product(view, index)


def weight_shape(view: GraphView, index: int) -> tuple[int, ...]:
    """Shape of a weight, constant or behind DequantizeLinear; () if unknown."""
    name = view.nodes[index].input[1]
    if name in view.constants:
        return tuple(view.constants[name].dims)
    dims = view.shapes.get(name, ())
    return () if None in dims else tuple(dim or 0 for dim in dims)


def trained_for_int8(view: GraphView, index: int) -> bool:
    """Whether a convolution's weights lie on the int8 grid, as quantization-aware training leaves them."""
    node = view.nodes[index]
    if node.op_type != "Conv" or node.input[1] not in view.constants:
        return False
    return on_grid(view.value(node.input[1]), 0)


def _thin_convolution(view: GraphView, index: int, rules: RuleSet) -> str | None:
    node = view.nodes[index]
    group = int(attribute(node, "group", 1))
    shape = weight_shape(view, index)
    if len(shape) < 3:
        return None
    kernel = shape[2:]
    made = view.shapes.get(node.output[0], ())
    if len(made) > 2 and all(size == 1 for size in made[2:]):
        return "one output place (a matrix-vector product) is bound by memory"
    # A convolution's weight is (out, in / group, ...), a transposed one's (in, out / group, ...).
    out, channels = (shape[0], shape[1]) if node.op_type == "Conv" else (shape[1] * group, shape[0])
    if min(out, channels) >= TILE:
        return None
    if group > 1:
        if out % ALIGNED == 0 and all(size >= 3 for size in kernel):
            return None
        return f"grouped, {out} channels, kernel {kernel}: wants a multiple of {ALIGNED} and kernel >= 3"
    aligned = out % ALIGNED == 0 or channels % ALIGNED == 0
    wide = max(out, channels) >= TILE or not weighted_before(view, index, rules)
    if aligned and wide and len(set(kernel)) <= 1:
        return None
    return f"{channels} to {out} channels, kernel {kernel}: too thin for INT8"


def _thin_product(view: GraphView, index: int) -> str | None:
    node = view.nodes[index]
    depth, width = weight_shape(view, index)[-2:] or (1, 1)
    if attribute(node, "transB", 0):
        depth, width = width, depth
    shape = view.shapes.get(node.input[0], ())
    rows = shape[-1 if attribute(node, "transA", 0) else -2] if len(shape) >= 2 else 1
    if rows == 1 or width == 1:
        return f"a matrix-vector product ({rows} x {depth} by {depth} x {width}) is bound by memory"
    if min(depth, width) < TILE:
        return f"{depth} x {width} weight: too thin for INT8"
    return None


def activation_after(view: GraphView, index: int) -> bool:
    """Whether an activation follows a node, directly or behind one norm or bias."""
    near = [view.nodes[reader] for reader in view.readers(view.nodes[index].output[0])]
    behind = [r for node in near if node.op_type in _BETWEEN for r in view.readers(node.output[0])]
    return any(node.op_type in ACTIVATIONS for node in (*near, *(view.nodes[r] for r in behind)))


def weighted_before(view: GraphView, index: int, rules: RuleSet) -> bool:
    """Whether the activation of a weighted operator depends on another weighted operator."""
    first = view.maker(view.nodes[index].input[0])
    return first >= 0 and any(view.op(i) in rules.weighted for i in chain((first,), view.ancestors(first)))


def weighted_after(view: GraphView, index: int, rules: RuleSet) -> bool:
    """Whether another weighted operator depends on a node."""
    return any(view.op(i) in rules.weighted for i in view.descendants(index))
