"""b_c += E[y_c] - E[y^_c], y = f(w, x), y^ = f(w^, Q(x)): what rounding shifts on average.

Rounding errors of one weight meet inputs of one sign (all that ReLU makes), so they do not average out over
the pixels. Both sides are measured at the same place of the quantized network, one layer beside its float
twin, so that each layer mends what it does itself and all are done in one pass over the data. Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, eq. 17, measured
empirically (appendix D).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edgedeploy.calibration.collect.values import SAMPLE, values
from edgedeploy.calibration.correction import CORRECTIONS, AfterPlacement, Setting
from edgedeploy.calibration.place.layers import Layer, Placed

_MOVING = frozenset(
    {
        "Pad",
        "MaxPool",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "DepthToSpace",
        "SpaceToDepth",
    }
)


@CORRECTIONS.register
@dataclass(frozen=True)
class BiasCorrection(AfterPlacement):
    """Moves biases by the mean error that is left after all else.

    Attributes:
        share: of the measured shift that is corrected.
    """

    name = "bias"
    order = 40
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {self.share}")

    def correct(
        self, quantized: onnx.ModelProto, model: onnx.ModelProto, setting: Setting
    ) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        placed = Placed(quantized, model)
        twins = _Twins(placed)
        found = {layer.node.output[0]: np.zeros(layer.outputs) for layer in placed.layers}
        count = 0
        means = [name for pair in twins.means.values() for name in pair]
        for tensors in values(twins.model, means, setting, at_most=SAMPLE):
            count += 1
            for name, (exact, rounded) in twins.means.items():
                error = tensors[exact].astype(np.float64).ravel() - tensors[rounded].ravel()
                found[name] += np.nan_to_num(error, posinf=0.0, neginf=0.0)
        corrected = 0
        for layer in placed.layers:
            change = found[layer.node.output[0]] / max(count, 1) - placed.moved(layer)
            corrected += placed.shift_bias(layer, self.share * change)
        if not corrected:
            return quantized, ()
        return placed.finished(), (f"biases of {corrected} layers corrected",)


class _Twins:
    """The quantized model with a float twin beside every layer; `means` names both means by output."""

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.model = onnx.ModelProto()
        self.model.CopyFrom(placed.model)
        self.means: dict[str, tuple[str, str]] = {}
        self._floats: dict[str, str] = {}
        self._added: list[NodeProto] = []
        layers = {layer.node.output[0]: layer for layer in placed.layers}
        nodes: list[NodeProto] = []
        for node in placed.nodes:
            nodes.append(node)
            if node.output[0] in layers:
                self._twin(layers[node.output[0]])
                nodes += self._added
                self._added = []
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)

    def _twin(self, layer: Layer) -> None:
        output = layer.node.output[0]
        twin = _copied(layer.node, f"{output}_twin")
        twin.input[0] = self._float(layer.node.input[0])
        twin.input[1] = self._constant(f"{output}_twin_w", layer.w)
        if layer.bias is not None:
            twin.input[2] = self._constant(f"{output}_twin_b", layer.bias)
        elif len(twin.input) > 2:
            del twin.input[2:]
        self._added.append(twin)
        self.means[output] = (self._mean(layer, twin.output[0]), self._mean(layer, output))

    def _mean(self, layer: Layer, name: str) -> str:
        """Node that averages over everything but the channels; its output's name."""
        axes = [0, *range(2, layer.w.ndim)]
        if layer.node.op_type in {"Gemm", "MatMul"}:  # channels last, of any rank
            shape = self._constant(f"{name}_rows", np.asarray([-1, layer.outputs], np.int64))
            self._added.append(helper.make_node("Reshape", [name, shape], [f"{name}_flat"]))
            name, axes = f"{name}_flat", [0]
        over = self._constant(f"{name}_axes", np.asarray(axes, np.int64))
        self._added.append(helper.make_node("ReduceMean", [name, over], [f"{name}_mean"], keepdims=0))
        return f"{name}_mean"

    def _float(self, name: str) -> str:
        """The tensor before Q/DQ that stands for `name`, through operators that only move values."""
        if name not in self._floats:
            self._floats[name] = self._unrounded(name)
        return self._floats[name]

    def _unrounded(self, name: str) -> str:
        made = self.placed.producer.get(name)
        if made is None:
            return name
        source = self.placed.producer.get(made.input[0]) if made.op_type == "DequantizeLinear" else None
        if source is not None and source.op_type == "QuantizeLinear":
            return str(source.input[0])
        if made.op_type not in _MOVING or len(made.output) != 1:
            return name
        before = self._float(made.input[0])
        if before == made.input[0]:
            return name
        twin = _copied(made, f"{name}_unrounded")
        twin.input[0] = before
        self._added.append(twin)
        return str(twin.output[0])

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def _copied(node: NodeProto, output: str) -> NodeProto:
    result = NodeProto()
    result.CopyFrom(node)
    result.name, result.output[0] = output, output
    return result
