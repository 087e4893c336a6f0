"""time = max(2 MACs / peak rate, bytes / bandwidth): a roofline estimate for a device that is not here.

Bytes are those of input, output and weight of a layer. The estimate is a lower bound: kernels also launch and
convert, and none reaches the peak rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from edgedeploy.core.operators import ACTIVATIONS, WEIGHTED
from edgedeploy.core.spec import Precision
from edgedeploy.core.target import Figures
from edgedeploy.graphs.view import GraphView, concrete, elements

_FOLLOWING = ACTIVATIONS | {"Add", "Mul"}  # fused into the layer's kernel
ITEM = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}


@dataclass(frozen=True)
class LayerCost:
    """Multiply-accumulates of one weighted layer, and elements of its input, output and weight."""

    name: str
    macs: int
    inputs: int
    outputs: int
    weights: int

    def milliseconds(self, figures: Figures, precision: Precision, written: Precision | None = None) -> float:
        """Roofline time; `written` is the output's precision if it differs. NaN without figures."""
        rate = peak(figures, precision)
        if rate is None or figures.memory_gb_per_s is None:
            return math.nan
        size = (self.inputs + self.weights) * ITEM[precision] + self.outputs * ITEM[written or precision]
        return max(2 * self.macs / (rate * 1e12), size / (figures.memory_gb_per_s * 1e9)) * 1e3


def peak(figures: Figures, precision: Precision) -> float | None:
    """Peak rate in 1e12 operations per second; a precision without a rate has that of the next wider one."""
    eight_bit = figures.int8_tops or figures.fp16_tflops or figures.fp32_tflops
    rates = {
        "fp32": figures.fp32_tflops,
        "fp16": figures.fp16_tflops or figures.fp32_tflops,
        "bf16": figures.fp16_tflops or figures.fp32_tflops,
        "fp8": eight_bit,  # equal on Ada, Hopper and Blackwell
        "int8": eight_bit,
    }
    return rates[precision]


def layer_costs(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LayerCost]:
    """Costs of the convolutions and matrix products of a float model, at these input shapes."""
    view = GraphView(concrete(model, dict(shapes)))
    costs = {}
    for index, node in enumerate(view.nodes):
        if node.op_type not in WEIGHTED:
            continue
        weight = view.constants.get(node.input[1])
        read, written = elements(view.shapes.get(node.input[0])), elements(view.shapes.get(node.output[0]))
        if weight is None or read is None or written is None or not weight.dims:
            continue
        count = math.prod(weight.dims)
        # Uses of each weight: positions of the output, or of the input of ConvTranspose.
        channels = {"Conv": weight.dims[0], "ConvTranspose": weight.dims[0]}.get(node.op_type)
        around = read if node.op_type == "ConvTranspose" else written
        if channels is None:
            macs = read * count // max(view.shapes[node.input[0]][-1] or 1, 1)
        else:
            macs = count * around // max(channels, 1)
        name = view.label(index)
        costs[name] = LayerCost(name, macs, read, written, count)
    return costs


def layer_names(model: onnx.ModelProto, layers: Iterable[str]) -> dict[str, str]:
    """Node -> its layer: each layer itself, and the chain of activations, Add and Mul that fuses into it."""
    view, chosen = GraphView(model), set(layers)
    names = {}
    for index, node in enumerate(view.nodes):
        if view.label(index) not in chosen:
            continue
        names[view.label(index)] = view.label(index)
        output = node.output[0]
        while len(readers := view.consumers[output]) == 1 and view.nodes[readers[0][0]].op_type in _FOLLOWING:
            follower = readers[0][0]
            names[view.label(follower)] = view.label(index)
            output = view.nodes[follower].output[0]
    return names


def roofline_ms(costs: Mapping[str, LayerCost], figures: Figures, precision: Precision) -> float | None:
    """Sum over layers in milliseconds; None without costs, or where the target has no figures."""
    total = math.fsum(cost.milliseconds(figures, precision) for cost in costs.values())
    return total if costs and math.isfinite(total) else None
