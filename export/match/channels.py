"""The tensors that share one channel axis, from the producing convolutions to the consuming ones.

Zero channels may be added to all these tensors at once. Weights that produce a channel get zero rows, weights
that consume it zero columns: any finite value that an operator in between computes is multiplied by zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    constant,
    float_of,
    has,
    is_constant,
    is_standard,
    kept_names,
    producer,
    shape_of,
)

# Operators of one tensor that treat each channel alone and are finite at 0.
ALONE = frozenset(
    {
        "Abs", "AveragePool", "BatchNormalization", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu",
        "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MaxPool",
        "Mish", "Neg", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh",
        "ThresholdedRelu",
    }
)  # fmt: skip
# Elementwise operators of several tensors that are finite at 0.
TOGETHER = frozenset(("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"))
VARIANCE = 4  # input of BatchNormalization; a divisor


@dataclass
class Region:
    """Tensors of one channel axis; nodes that produce it, pass it on and consume it; all by identity."""

    channels: int
    tensors: dict[int, Tensor] = field(default_factory=dict)
    producers: dict[int, Node] = field(default_factory=dict)
    inner: dict[int, Node] = field(default_factory=dict)
    consumers: dict[int, Node] = field(default_factory=dict)


def region_of(graph: Graph, start: Node) -> Region:
    """The region of a convolution's output channels; raises Skip where a node in it cannot be padded."""
    region, kept, waiting = Region(channels_of(start.outputs[0])), kept_names(graph), [start.outputs[0]]
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in region.tensors:
            continue
        maker = producer(tensor)
        if tensor.name in kept or maker is None:
            raise Skip(f"its channels are those of '{tensor.name}', an input or output")
        if channels_of(tensor) != region.channels:
            raise Skip(f"'{tensor.name}' has other channels")
        region.tensors[id(tensor)] = tensor
        waiting += _around(region, maker, produces=True)
        for node in tensor.outputs:
            waiting += _around(region, node, produces=False)
    return region


def channels_of(tensor: Tensor) -> int:
    """The size of axis 1; raises Skip where it is unknown and for tensors of rank 2 or less."""
    shape = tensor.shape
    if shape is None or len(shape) < 3 or not isinstance(shape[1], int):
        raise Skip(f"the channels of '{tensor.name}' are not known")
    return int(shape[1])


def widen(graph: Graph, region: Region, width: int) -> None:
    """Give every tensor of the region `width` channels; no output depends on the new ones."""
    more = width - region.channels
    for node in region.producers.values():
        _append(graph, node, 1, 1 if node.op == "ConvTranspose" else 0, more)
        _append(graph, node, 2, 0, more)
    for node in region.consumers.values():
        _append(graph, node, 1, 0 if node.op == "ConvTranspose" else 1, more)
    for node in region.inner.values():
        if node.op == "Conv":
            node.attrs["group"] = width
        for index in range(len(node.inputs)):
            axis = _channel_axis(node, index, region.channels)
            if axis is not None:
                _append(graph, node, index, axis, more)
    for tensor in region.tensors.values():
        batch, _, *image = shape_of(tensor, f"'{tensor.name}'")
        tensor.shape = [batch, width, *image]


def _around(region: Region, node: Node, *, produces: bool) -> Iterator[Tensor]:
    """The tensors of the axis around a node that produces or consumes one of them; raises Skip."""
    if not is_standard(node):
        raise Skip(f"{node.op} '{node.name}' is no operator of ONNX itself")
    if node.op in ("Conv", "ConvTranspose"):
        for index in (1, 2):
            if has(node, index):
                float_of(node.inputs[index], f"a weight of '{node.name}'")
        group = int(node.attrs.get("group", 1))
        if group == 1:
            (region.producers if produces else region.consumers)[id(node)] = node
            return
        if node.op != "Conv" or not group == region.channels == shape_of(node.inputs[1], "a weight")[0]:
            raise Skip(f"'{node.name}' has {group} groups")
    elif node.op not in ALONE | TOGETHER and not _leaves_channels(node):
        raise Skip(f"{node.op} '{node.name}' may mix channels")
    if len(node.outputs) > 1:
        raise Skip(f"{node.op} '{node.name}' has a second output")
    region.inner[id(node)] = node
    yield node.outputs[0]
    yield from _operands(node, region.channels)


def _operands(node: Node, channels: int) -> Iterator[Tensor]:
    """The inputs of a node that share the channel axis of its output; raises Skip."""
    for index, tensor in enumerate(node.inputs):
        if is_constant(tensor):
            _channel_axis(node, index, channels)  # raises Skip where the constant cannot grow
        elif index and node.op not in TOGETHER and not tensor.is_empty():
            raise Skip(f"input {index} of {node.op} '{node.name}' is computed")
        elif not tensor.is_empty():
            is_map = len(node.inputs) > 1 and channels_of(tensor) == 1
            if not is_map or channels == 1:  # one value for all channels stays one
                yield tensor


def _leaves_channels(node: Node) -> bool:
    """Whether a Resize or Pad is known from constants to leave the channels alone."""
    if node.op == "Resize" and node.attrs.get("axes"):
        return 1 not in [int(axis) for axis in node.attrs["axes"]] and min(node.attrs["axes"]) >= 0
    if node.op == "Resize" and has(node, 2) and is_constant(node.inputs[2]):
        return bool(node.inputs[2].values[1] == 1)
    if node.op == "Pad" and len(node.inputs) <= 3 and has(node, 1) and is_constant(node.inputs[1]):
        pads = node.inputs[1].values
        return bool(pads[1] == 0 == pads[1 + len(pads) // 2])
    return False


def _channel_axis(node: Node, index: int, channels: int) -> int | None:
    """The channel axis of a constant input, None where it has none; raises Skip."""
    tensor = node.inputs[index]
    if not is_constant(tensor) or node.op in ("Resize", "Pad", "Clip"):
        return None
    float_of(tensor, f"a constant of '{node.name}'")
    if node.op in ("Conv", "BatchNormalization"):
        return 0
    rank = len(node.outputs[0].shape or ())
    axis = len(tensor.shape) - rank + 1
    if rank < 3 or axis > 1:
        raise Skip(f"a constant of {node.op} '{node.name}' has more axes than the tensor")
    if axis < 0 or tensor.shape[axis] == 1:
        return None
    if tensor.shape[axis] != channels:
        raise Skip(f"a constant of {node.op} '{node.name}' has other channels")
    return axis


def _append(graph: Graph, node: Node, index: int, axis: int, more: int) -> None:
    """Append zeros to a constant along an axis; ones to a divisor."""
    if not has(node, index):
        return
    tensor = node.inputs[index]
    values = float_of(tensor, "a weight")
    room = [(0, more if dim == axis else 0) for dim in range(values.ndim)]
    fill = 1.0 if node.op == "BatchNormalization" and index == VARIANCE else 0.0
    node.inputs[index] = constant(
        graph, tensor.name, np.pad(values, room, constant_values=fill), tensor.dtype
    )
