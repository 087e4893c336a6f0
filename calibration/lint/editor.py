"""Edits that lint fixes share: pairs of Q/DQ, their parameters, and weights behind DQ."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from edgedeploy.calibration.lint.scene import DQ, Pair, Q, Scene
from edgedeploy.calibration.place.weights import quantize_weight
from edgedeploy.core.pair_sums import LEVELS, Product
from edgedeploy.graphs.edit import GraphEditor

# Maxima, means and copies are no less than zero where their input is.
AVERAGING = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Identity", "Upsample"}
)
# Of operators that nobody reads after a fix, these go; a node of the user's stays.
_DROPPED = frozenset({Q, DQ, "Identity", "Relu", "Cast"})


class Editor(GraphEditor):
    """Changes the model of a scene in place; the scene shows what was there before until `commit`."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.scene = scene
        self._shared: dict[tuple[Any, ...], tuple[str, str]] = {}

    def drop_pair(self, pair: Pair) -> None:
        """Let the readers of a pair read the float tensor, behind a ReLU where the pair clips at zero."""
        parameters = self.scene.parameters(pair.quantize)
        source = pair.source
        if parameters is not None and parameters.clips_at_zero and not never_negative(self.scene, source):
            source = self.insert(pair.dequantize, "Relu", [source], f"{pair.source}_relu")
        self.redirect(pair.result, source)

    def set_parameters(self, index: int, scale: NDArray[Any], zero: NDArray[Any]) -> None:
        """Give a Q or DQ node another scale and zero-point, of one value each."""
        node = self.scene.nodes[index]
        key = (scale.tobytes(), zero.tobytes(), zero.dtype.name, scale.dtype.name)
        if key not in self._shared:
            hint = node.input[1]
            names = self.constant(f"{hint}_fixed", scale), self.constant(f"{hint}_fixed_zero_point", zero)
            self._shared[key] = names
        del node.input[1:]
        node.input.extend(self._shared[key])
        self.forget(index, "output_dtype")

    def requantize(self, quantize: int, scale: NDArray[Any], zero: NDArray[Any]) -> bool:
        """Give a Q and each DQ of its codes another scale and zero-point, if nothing else reads those."""
        readers = self.scene.readers(self.scene.nodes[quantize].output[0])
        if any(self.scene.op(reader) != DQ for reader in readers):
            return False
        for node in (quantize, *readers):
            self.set_parameters(node, scale, zero)
        return True

    def make_symmetric(self, quantize: int) -> None:
        """Quantize to int8 with zero-point 0 over the same range, behind a ReLU where it clipped at zero."""
        parameters = self.scene.parameters(quantize)
        if parameters is None:
            return
        scale = np.asarray(max(-parameters.low, parameters.high) / LEVELS, parameters.scale.dtype)
        done = self.requantize(quantize, scale, np.asarray(0, np.int8))
        source = self.scene.nodes[quantize].input[0]
        if done and parameters.clips_at_zero and not never_negative(self.scene, source):
            self.read(quantize, 0, self.insert(quantize, "Relu", [source], f"{source}_relu"))

    def set_weight(self, dequantize: int, axis: int | None) -> None:
        """Quantize a weight again, symmetric int8 along `axis`, from its dequantized values."""
        w = self.scene.weight_value(dequantize)
        if w is None:
            return
        readers = [self.scene.nodes[i] for i in self.scene.readers(self.scene.nodes[dequantize].output[0])]
        weighted = [node for node in readers if node.op_type in self.scene.rules.weighted]
        product = self.scene.rules.product(weighted[0]) if weighted else None
        node = self.scene.nodes[dequantize]
        inputs = self.quantized(w.astype(np.float32), axis, node.input[0], product)
        del node.input[:]
        node.input.extend(inputs)
        self.forget(dequantize, "axis")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))

    def quantized(
        self, w: NDArray[Any], axis: int | None, hint: str, product: Product | None = None
    ) -> list[str]:
        """Initializers of a weight's codes, scales and zero-points: the inputs of its DQ."""
        codes, scale = quantize_weight(w, axis, product)
        zero = np.zeros_like(scale, dtype=np.int8)
        return [
            self.constant(f"{hint}_{suffix}", value)
            for suffix, value in (("int8", codes), ("int8_scale", scale), ("int8_zero_point", zero))
        ]

    def strip(self) -> None:
        """Remove all Q/DQ: activations stay float, weights become their dequantized values."""
        for pair in self.scene.pairs():
            self.drop_pair(pair)
        for index in self.scene.dequantizers:
            self.to_constant(index)

    def to_constant(self, dequantize: int) -> None:
        """Replace a constant behind DQ by its dequantized values."""
        name = self.scene.nodes[dequantize].output[0]
        value = self.scene.weight_value(dequantize) if self.scene.weight(name) >= 0 else None
        parameters = self.scene.parameters(dequantize)
        if value is not None and parameters is not None:
            self.redirect(name, self.constant(f"{name}_float", value.astype(parameters.scale.dtype)))

    def commit(self, only: Collection[str] | None = _DROPPED) -> None:
        """Write the nodes in order, and drop what nobody reads any more."""
        super().commit(only)
        del self.graph.value_info[:]  # types of tensors may have changed


def never_negative(scene: Scene, name: str) -> bool:
    """Whether a tensor cannot hold negative values, as far as its operators tell."""
    index = scene.maker(name)
    op = scene.op(index)
    if op in {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus", "ReduceL2", "Sqrt"}:
        return True
    if op == "Clip" and len(scene.nodes[index].input) > 1:
        low = scene.nodes[index].input[1]
        return low in scene.constants and bool((np.asarray(scene.value(low)) >= 0).all())
    if op == DQ:
        parameters = scene.parameters(index)
        return parameters is not None and parameters.clips_at_zero
    if op in (scene.rules.pass_through | AVERAGING) - {"Resize"}:
        return never_negative(scene, scene.nodes[index].input[0])
    if op == "Concat":
        return all(never_negative(scene, entry) for entry in scene.nodes[index].input)
    return False
