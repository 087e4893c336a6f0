"""conv(x, w) = conv(x / r, w r), r_c = (max |x_c| / max |x|)^strength: channels made alike for INT8.

An activation has one scale, so a channel a tenth as large as the largest gets a tenth of the levels. Where a
ReLU follows a convolution, 1/r goes into that one's weights (relu(a / r) = relu(a) / r) and costs nothing;
after Tanh or Sigmoid it is a Mul that fuses with them. Nagel et al., ICCV 2019 (cross-layer equalisation);
Xiao et al., ICML 2023 (the exponent).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgedeploy.calibration.exclusions import trained_for_int8
from edgedeploy.calibration.graph_view import GraphView, attribute
from edgedeploy.calibration.plan import Plan

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu"})
_BOUNDED = frozenset({"Tanh", "Sigmoid"})
_LEAST = 1 / 64  # of the largest channel: a dead channel would otherwise blow up its weights


def candidates(view: GraphView, plan: Plan) -> list[str]:
    """Tensors read by nothing but ungrouped quantised convolutions, whose maker can take the factor.

    Where the weights lie on the int8 grid already, quantising them loses nothing and any factor would:
        trained so,
    they are left alone.
    """
    found = []
    for name, edges in plan.reads.items():
        convolutions = all(
            position == 0
            and view.nodes[index].op_type == "Conv"
            and attribute(view.nodes[index], "group", 1) == 1
            for index, position in edges
        )
        trained = any(trained_for_int8(view, index) for index, _ in edges)
        private = sorted(view.consumers[name]) == sorted(edges) and name not in view.captured
        if convolutions and not trained and private and name not in view.outputs and plan.find(name) == name:
            producer = view.producer.get(name)
            kind = view.nodes[producer].op_type if producer is not None else ""
            if kind in _BOUNDED or _source(view, name) is not None:
                found.append(name)
    return found


def factors(peaks: NDArray[np.float64], strength: float) -> NDArray[np.float32]:
    """r per channel, in [1/64, 1], from the largest magnitude of each channel."""
    top = peaks.max(initial=0.0)
    if top <= 0:
        return np.ones(peaks.shape, dtype=np.float32)
    r: NDArray[np.float64] = np.maximum((peaks / top) ** strength, _LEAST)
    return r.astype(np.float32)


def equalize(
    model: onnx.ModelProto, peaks: Mapping[str, NDArray[np.float64]], strength: float
) -> onnx.ModelProto:
    """A copy that computes the same with some tensors equalised; `peaks` are max |x| of their channels."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    view = GraphView(result)
    multiplied = []
    for name, peak in peaks.items():
        r = factors(peak, strength)
        source = _source(view, name)
        if source is not None:
            for position in (1, 2):
                if len(view.nodes[source].input) > position and view.nodes[source].input[position]:
                    _scale(result, view, source, position, 1 / r, axis=0)
        else:
            multiplied.append((view.producer[name], name, r))
        for index, _ in view.consumers[name]:
            _scale(result, view, index, 1, r, axis=1)
    for index, name, r in sorted(multiplied, reverse=True, key=lambda entry: entry[0]):
        scaled, inverse = f"{name}_equalized", f"{name}_equalizer"
        rank = len(view.shapes.get(name) or (0,) * 4)
        value = (1 / r).reshape([1, -1, *[1] * (rank - 2)])
        result.graph.initializer.append(numpy_helper.from_array(value, inverse))
        for consumer, position in view.consumers[name]:
            view.nodes[consumer].input[position] = scaled
        result.graph.node.insert(
            index + 1, helper.make_node("Mul", [name, inverse], [scaled], f"{name}_equalize")
        )
    used = {name for node in result.graph.node for name in node.input} | view.captured
    for position in reversed(range(len(result.graph.initializer))):
        name = result.graph.initializer[position].name
        if name not in used and name not in view.outputs:
            del result.graph.initializer[position]
    return result


def _source(view: GraphView, name: str) -> int | None:
    """The convolution that can take the factor: conv -> ReLU -> name, with nothing else reading between."""
    relu = view.producer.get(name)
    if relu is None or view.nodes[relu].op_type not in _HOMOGENEOUS:
        return None
    inner = view.nodes[relu].input[0]
    source = view.producer.get(inner)
    if source is None or len(view.consumers[inner]) != 1 or inner in view.outputs or inner in view.captured:
        return None
    node = view.nodes[source]
    constants = all(value in view.constants for value in node.input[1:] if value)
    return source if node.op_type == "Conv" and constants else None


def _scale(
    model: onnx.ModelProto,
    view: GraphView,
    index: int,
    position: int,
    factor: NDArray[np.floating[Any]],
    axis: int,
) -> None:
    """Give a node its own copy of a constant, multiplied along an axis."""
    node = view.nodes[index]
    name = node.input[position]
    value = view.value(name).astype(np.float64)
    shape = [-1 if i == axis else 1 for i in range(value.ndim)]
    own = f"{name}_{index}_scaled" if axis == 0 else f"{name}_{index}_rescaled"
    tensor = numpy_helper.from_array((value * factor.reshape(shape)).astype(np.float32), own)
    model.graph.initializer.append(tensor)
    view.constants[own] = tensor
    node.input[position] = own
