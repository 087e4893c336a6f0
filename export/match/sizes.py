"""Symbolic sizes: numbers, and integer multiples of a dimension.

A dimension is traced upstream through operators that keep it: the height after Relu, a padded convolution of
stride 1 or a Concat of channels equals the height before. A size that is no exact multiple is unknown (a
strided convolution rounds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgedeploy.export.match.shapes import is_static
from edgedeploy.graphs.surgeon import Node, Tensor, is_constant, is_standard, producer


@dataclass(frozen=True)
class Dim:
    """`factor` times the dimension `name` of a graph input, or of a tensor along an axis."""

    name: str
    factor: int = 1


Size: TypeAlias = int | Dim | None  # None: unknown
MAX_STEPS = 1000  # up a chain of operators; a bound for damaged graphs
# Operators whose output has the shape of the first input.
_SAME = frozenset(
    {
        "Abs", "BatchNormalization", "Cast", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid",
        "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log",
        "LogSoftmax", "Mish", "Neg", "PRelu", "Relu", "Selu", "Sigmoid", "Sin", "Softmax", "Softplus", "Sqrt",
        "Swish", "Tanh",
    }
)  # fmt: skip
_WINDOWED = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})


def dim(tensor: Tensor, axis: int, steps: int = MAX_STEPS) -> Size:
    """The size of a tensor along an axis (not negative)."""
    factor = 1
    for _ in range(steps):
        shape = tensor.shape
        size = shape[axis] if shape is not None and axis < len(shape) else None
        if isinstance(size, int) and size >= 0:
            return factor * size
        node = producer(tensor)
        step = _upwards(node, axis) if node is not None and is_standard(node) else None
        if step is None:
            break
        tensor, axis, more = step
        factor *= more
    named = tensor.shape[axis] if tensor.shape is not None and axis < len(tensor.shape) else None
    return Dim(named if isinstance(named, str) and named else f"{tensor.name}/{axis}", factor)


def sizes(tensor: Tensor, depth: int = 32) -> NDArray[Any] | None:
    """The elements of an integer tensor as an object array of Size; None where unknown."""
    if is_constant(tensor):
        values = np.asarray(tensor.values)
        return values.astype(object) if values.dtype.kind in "iu" or values.size <= 8 else None
    node = producer(tensor)
    if node is None or depth == 0 or not is_standard(node):
        return None
    if node.op == "Shape":
        source = node.inputs[0]
        if source.shape is None:
            return None
        every = [dim(source, axis) for axis in range(len(source.shape))]
        picked = every[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
        return _objects(picked)
    parts = [sizes(operand, depth - 1) for operand in node.inputs]
    known = [part for part in parts if part is not None]
    if not known or len(known) != len(parts):
        return None
    try:
        return _apply(node, known)
    except (IndexError, TypeError, ValueError):  # operands that the operator does not take
        return None


def _apply(node: Node, parts: list[NDArray[Any]]) -> NDArray[Any] | None:
    x, attrs = parts[0], node.attrs
    if node.op in ("Cast", "Identity", "Floor"):
        return x
    if node.op == "Gather" and attrs.get("axis", 0) == 0:
        return _objects(x[parts[1].astype(np.int64)])
    if node.op == "Concat":
        return np.concatenate(parts) if all(part.ndim == 1 for part in parts) else None
    if node.op == "Slice" and x.ndim == 1:
        starts, ends = (int(part.reshape(-1)[0]) for part in parts[1:3])
        stride = int(parts[4].reshape(-1)[0]) if len(parts) > 4 else 1
        return x[starts:ends:stride] if stride > 0 else None
    if node.op == "Unsqueeze" and not x.ndim:
        return x.reshape(1)
    if node.op == "Squeeze" and x.size == 1:
        return x.reshape(())
    if node.op == "Reshape" and x.size == 1:
        return x.reshape(tuple(int(size) for size in parts[1].reshape(-1)))
    if node.op == "Mul":
        left, right = np.broadcast_arrays(*parts)
        pairs = zip(left.ravel(), right.ravel(), strict=True)
        return _objects([times(a, b) for a, b in pairs]).reshape(left.shape)
    return None


def _objects(values: Any) -> NDArray[Any]:
    array = np.empty(np.shape(values), object)
    array[...] = values
    return array


def times(a: Size | float, b: Size | float) -> Size:
    """The product of two sizes; None where it is no whole multiple of one dimension."""
    if isinstance(b, Dim):
        a, b = b, a
    if a is None or b is None or isinstance(b, Dim) or b != int(b):
        return None
    if isinstance(a, Dim):
        return Dim(a.name, a.factor * int(b)) if b > 0 else None
    return int(a) * int(b) if a == int(a) else None


def _upwards(node: Node, axis: int) -> tuple[Tensor, int, int] | None:
    """(tensor, its axis, factor): the output's size along `axis` is factor times the tensor's size."""
    x = node.inputs[0] if node.inputs else None
    if x is None:
        return None
    if node.op in _SAME:
        return x, axis, 1
    if node.op == "Concat" and x.shape is not None and node.attrs.get("axis", 0) % len(x.shape) != axis:
        return x, axis, 1
    if node.op in _WINDOWED and (axis == 0 or (axis > 1 and _keeps(node, axis - 2))):
        return x, axis, 1
    if node.op == "Transpose" and "perm" in node.attrs:
        return x, int(node.attrs["perm"][axis]), 1
    if node.op == "DepthToSpace" and axis != 1:
        return x, axis, int(node.attrs["blocksize"]) if axis > 1 else 1
    if node.op == "Resize" and len(node.inputs) > 2 and is_constant(node.inputs[2]):
        scales = np.ravel(node.inputs[2].values)
        plain = not node.attrs.get("axes") and axis < scales.size and len(node.inputs) < 4
        if plain and scales[axis] >= 1 and scales[axis] == int(scales[axis]):
            return x, axis, int(scales[axis])
    if node.op in ("Add", "Mul", "Sub", "Div"):
        return _of_either(node, axis)
    return None


def _of_either(node: Node, axis: int) -> tuple[Tensor, int, int] | None:
    """The operand whose size the output keeps: the other is a constant of size 1 on the axis."""
    for x, other in (node.inputs, node.inputs[::-1]):
        if is_constant(x) or not is_constant(other) or x.shape is None:
            continue
        values = np.asarray(other.values)
        place = axis - (len(x.shape) - values.ndim)
        if values.ndim <= len(x.shape) and (place < 0 or values.shape[place] == 1):
            return x, axis, 1
    return None


def _keeps(node: Node, place: int) -> bool:
    """Whether a windowed operator keeps the size of a spatial axis."""
    weight = node.inputs[1].shape if node.op == "Conv" else None
    kernel = node.attrs.get("kernel_shape") or (list(weight)[2:] if is_static(weight) else [])
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET" or place >= len(kernel):
        return False
    spatial = len(kernel)
    strides, dilations = (node.attrs.get(key, [1] * spatial) for key in ("strides", "dilations"))
    pads = node.attrs.get("pads", [0] * 2 * spatial)
    reach = dilations[place] * (kernel[place] - 1)
    return bool(strides[place] == 1 and pads[place] + pads[place + spatial] == reach)


def reshaped(node: Node) -> list[Size]:
    """The output sizes of a Reshape, None for an inferred (-1) size; [] if nothing is known."""
    x, shape = node.inputs
    wanted = sizes(shape)
    if wanted is None or wanted.ndim != 1:
        return []
    if node.attrs.get("allowzero", 0) and any(isinstance(size, int) and size == 0 for size in wanted):
        return []  # 0 is meant; exporters set the attribute whether or not there is one
    found: list[Size] = []
    for place, size in enumerate(wanted):
        if isinstance(size, int) and size == 0:
            found.append(dim(x, place))
        else:
            found.append(None if size == -1 else size)
    return found


def agree(found: list[Size], wanted: list[Size]) -> bool:
    """Whether sizes equal `wanted`; one may be open, as the number of elements decides it."""
    pairs = list(zip(found, wanted, strict=False))
    open_places = sum(size is None for size in found)
    return len(found) == len(wanted) and open_places <= 1 and all(a is None or a == b for a, b in pairs)
