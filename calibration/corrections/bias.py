"""b_c += E[y_c] - E[y^_c], y = f(w, x), y^ = f(w^, Q(x)): the bias absorbs the mean error of rounding.

After ReLU all inputs have one sign, so rounding errors of a weight do not average out over pixels. Both means
are measured inside the quantized network: every layer runs beside its float twin. Each layer therefore
corrects its own error, and one pass over the data serves all layers. Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, eq. 17, measured
empirically (appendix D).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import NodeProto

from edgedeploy.calibration.collect.values import SAMPLE, values
from edgedeploy.calibration.correction import CORRECTIONS, AfterPlacement, Setting
from edgedeploy.calibration.place.layers import Layer, Placed
from edgedeploy.core.operators import MOVING, PRODUCTS
from edgedeploy.graphs.edit import GraphEditor, copy_model, copy_node
from edgedeploy.graphs.view import GraphView


@CORRECTIONS.register
@dataclass(frozen=True)
class BiasCorrection(AfterPlacement):
    """Adds to biases the mean error that remains after the other corrections.

    Attributes:
        share: share of the mean error that is corrected.
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
    """The quantized model with a float twin of every layer.

    `means` maps a layer's output to the tensors of both means, (float, quantized).
    """

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.model = copy_model(placed.model)
        self.editor = GraphEditor(GraphView(self.model))
        self.means: dict[str, tuple[str, str]] = {}
        self._floats: dict[str, str] = {}
        self._next = 0  # index of the node before which twins are inserted
        layers = {layer.node.output[0]: layer for layer in placed.layers}
        for index, node in enumerate(placed.nodes):
            if node.output[0] in layers:
                self._next = index + 1
                self._twin(layers[node.output[0]])
        self.editor.commit()

    def _twin(self, layer: Layer) -> None:
        output = layer.node.output[0]
        twin = self._copied(layer.node, f"{output}_twin")
        twin.input[0] = self._float(layer.node.input[0])
        twin.input[1] = self.editor.constant(f"{output}_twin_w", layer.w)
        if layer.bias is not None:
            twin.input[2] = self.editor.constant(f"{output}_twin_b", layer.bias)
        elif len(twin.input) > 2:
            del twin.input[2:]
        self.editor.append(twin, self._next)
        self.means[output] = (self._mean(layer, twin.output[0]), self._mean(layer, output))

    def _mean(self, layer: Layer, name: str) -> str:
        """Insert the mean over all axes but the channels; returns its tensor."""
        insert, constant = partial(self.editor.insert, self._next), self.editor.constant
        axes, mean = [0, *range(2, layer.w.ndim)], f"{name}_mean"
        if layer.node.op_type in PRODUCTS:  # channels last, of any rank
            shape = constant(f"{name}_rows", np.asarray([-1, layer.outputs], np.int64))
            name, axes = insert("Reshape", [name, shape], f"{name}_flat"), [0]
        over = constant(f"{name}_axes", np.asarray(axes, np.int64))
        return insert("ReduceMean", [name, over], mean, keepdims=0)

    def _float(self, name: str) -> str:
        """The tensor `name` without the rounding of Q/DQ, also through operators that only move values."""
        if name not in self._floats:
            self._floats[name] = self._unrounded(name)
        return self._floats[name]

    def _unrounded(self, name: str) -> str:
        made = self.placed.view.maker_node(name)
        if made is None:
            return name
        source = self.placed.view.maker_node(made.input[0]) if made.op_type == "DequantizeLinear" else None
        if source is not None and source.op_type == "QuantizeLinear":
            return str(source.input[0])
        if made.op_type not in MOVING or len(made.output) != 1:
            return name
        before = self._float(made.input[0])
        if before == made.input[0]:
            return name
        twin = self._copied(made, f"{name}_unrounded")
        twin.input[0] = before
        self.editor.append(twin, self._next)
        return str(twin.output[0])

    def _copied(self, node: NodeProto, output: str) -> NodeProto:
        result = copy_node(node)
        result.name = result.output[0] = self.editor.unique(output)
        return result
