"""A view of a quantized graph: Q/DQ pairs, their parameters, weights behind DQ, operators that run in INT8.

Files of any producer are read: weights as codes behind DQ or as floats behind Q and DQ, scales as
initializers or Constant nodes, standard or com.microsoft operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.calibration.place.weights import along_axis
from edgedeploy.core.operators import FUSED
from edgedeploy.graphs.opset import opset_of
from edgedeploy.graphs.view import GraphView, attribute

Q, DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Device:
    """Properties of the device that the rule set does not hold; None where no device was named."""

    name: str = ""
    int8: bool = True
    compute_capability: str | None = None


@dataclass(frozen=True)
class Parameters:
    """Scale and zero-point of a Q or DQ node: arrays of one shape, () or (channels,); axis None for ()."""

    scale: NDArray[Any]
    zero: NDArray[Any]
    axis: int | None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for two nodes whose codes stand for the same values."""
        return (self.scale.tobytes(), self.zero.tobytes(), self.zero.dtype.name, self.axis)

    @property
    def low(self) -> float:
        """Least value that the codes stand for."""
        return float(((_least(self.zero) - self.zero.astype(np.int64)) * self.scale).min())

    @property
    def high(self) -> float:
        """Greatest value that the codes stand for."""
        info = np.iinfo(self.zero.dtype)
        return float(((info.max - self.zero.astype(np.int64)) * self.scale).max())

    @property
    def clips_at_zero(self) -> bool:
        """Whether no code stands for a negative value: such a Q acts as a ReLU."""
        return bool((self.zero == _least(self.zero)).all())


@dataclass(frozen=True)
class Pair:
    """A Q and the DQ that reads it; `source` is the tensor before, `result` the one after."""

    quantize: int
    dequantize: int
    source: str
    result: str


class Scene(GraphView):
    """A GraphView with quantization; `rules` and `device` are those that the file is made for."""

    def __init__(self, model: onnx.ModelProto, rules: RuleSet, device: Device | None = None) -> None:
        super().__init__(model)
        self.rules, self.device, self.opset = rules, device or Device(), opset_of(model)
        self.quantizers = [i for i, node in enumerate(self.nodes) if node.op_type == Q]
        self.dequantizers = [i for i, node in enumerate(self.nodes) if node.op_type == DQ]
        self.weighted = [
            i for i, node in enumerate(self.nodes) if node.op_type in rules.weighted and len(node.input) > 1
        ]
        self._weighted = frozenset(self.weighted)
        self._parameters: dict[int, Parameters | None] = {}

    def parameters(self, index: int) -> Parameters | None:
        """Scale and zero-point of a Q or DQ node; None unless they are integer constants without blocks."""
        if index not in self._parameters:
            self._parameters[index] = self._read(index)
        return self._parameters[index]

    def _read(self, index: int) -> Parameters | None:
        node = self.nodes[index]
        if node.input[1] not in self.constants or attribute(node, "block_size", 0):
            return None
        scale = np.asarray(self.value(node.input[1]))
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in self.constants:
                return None
            zero = np.asarray(self.value(node.input[2]))
        else:
            kind = np.dtype(np.uint8)
            if node.op_type == DQ and node.input[0] in self.constants:
                kind = np.asarray(self.value(node.input[0])).dtype
            zero = np.zeros_like(scale, dtype=kind)
        if zero.dtype.kind not in "iu" or zero.dtype.name not in _PLAIN:
            return None
        if scale.size == 1 and scale.ndim <= 1:
            return Parameters(scale.reshape(()), zero.reshape(-1)[:1].reshape(()), None)
        axis = int(attribute(node, "axis", 1))
        rank = len(self.shapes.get(node.input[0], ())) or np.ndim(self._constant(node.input[0]))
        return Parameters(scale, np.broadcast_to(zero, scale.shape), axis % rank if rank else axis)

    def _constant(self, name: str) -> NDArray[Any]:
        return np.asarray(self.value(name)) if name in self.constants else np.zeros(())

    def kind(self, index: int) -> str:
        """Integer or float format of a Q's codes or a DQ's input, as ONNX names it in lower case."""
        node = self.nodes[index]
        name = node.input[2] if len(node.input) > 2 else ""
        if name not in self.constants and node.op_type == DQ:
            name = node.input[0]
        if name in self.constants:
            return str(TensorProto.DataType.Name(self.constants[name].data_type).lower())
        number = attribute(node, "output_dtype", 0)
        if number:
            return str(TensorProto.DataType.Name(number).lower())
        source = self.maker(node.input[0])
        return self.kind(source) if node.op_type == DQ and self.op(source) == Q else "uint8"

    def pair(self, name: str) -> Pair | None:
        """The Q/DQ pair of an activation whose result is this tensor, or None."""
        dequantize = self.maker(name)
        if self.op(dequantize) != DQ:
            return None
        quantize = self.maker(self.nodes[dequantize].input[0])
        if self.op(quantize) != Q or self.nodes[quantize].input[0] in self.constants:
            return None
        return Pair(quantize, dequantize, self.nodes[quantize].input[0], name)

    def pairs(self) -> Iterator[Pair]:
        """Every pair on an activation."""
        for index in self.dequantizers:
            pair = self.pair(self.nodes[index].output[0])
            if pair is not None:
                yield pair

    def before(self, name: str) -> str:
        """The float tensor before the pair that ends in `name`, else `name` itself."""
        pair = self.pair(name)
        return pair.source if pair else name

    def weight(self, name: str) -> int:
        """Index of the DQ that computes `name` from constant codes or a constant float behind Q, else -1."""
        dequantize = self.maker(name)
        if self.op(dequantize) != DQ:
            return -1
        source = self.nodes[dequantize].input[0]
        quantize = self.maker(source)
        if self.op(quantize) == Q:
            source = self.nodes[quantize].input[0]
        return dequantize if source in self.constants else -1

    def codes(self, dequantize: int) -> NDArray[Any] | None:
        """Codes of a weight, quantized here if the file stores floats; None without readable parameters."""
        parameters, source = self.parameters(dequantize), self.nodes[dequantize].input[0]
        if parameters is None:
            return None
        if source in self.constants:
            return self.value(source)
        w = np.asarray(self.value(self.nodes[self.maker(source)].input[0]), np.float64)
        info = np.iinfo(parameters.zero.dtype)
        scaled = np.rint(w / along_axis(parameters.scale, parameters.axis, w.ndim))
        codes = np.clip(scaled + along_axis(parameters.zero, parameters.axis, w.ndim), info.min, info.max)
        return codes.astype(parameters.zero.dtype)

    def weight_value(self, dequantize: int) -> NDArray[np.float64] | None:
        """The dequantized weight in float64; None without readable parameters."""
        parameters, codes = self.parameters(dequantize), self.codes(dequantize)
        if parameters is None or codes is None:
            return None
        scale, zero = (
            along_axis(part, parameters.axis, codes.ndim) for part in (parameters.scale, parameters.zero)
        )
        return np.asarray((codes.astype(np.float64) - zero) * scale)

    def runs_int8(self, index: int) -> bool:
        """Whether a weighted operator reads both an activation and a weight (or two activations) from DQ."""
        inputs = self.nodes[index].input
        return index in self._weighted and all(self.is_dequantized(name) for name in inputs[:2])

    def is_dequantized(self, name: str) -> bool:
        """Whether a tensor comes from DQ through operators that only move, pad or join values.

        TensorRT-RTX 1.7 runs DQ + Concat + Conv in INT8 without another Q between (measured).
        """
        index = self.maker(name)
        while self.op(index) in self.rules.pass_through | {"Pad"}:
            index = self.maker(self.nodes[index].input[0])
        if self.op(index) == "Concat" and not self.rules.outputs:
            return all(self.is_dequantized(entry) for entry in self.nodes[index].input)
        return self.op(index) == DQ

    def quantizers_of(self, name: str) -> list[int]:
        """The Q nodes that read a tensor."""
        return [index for index in self.readers(name) if self.op(index) == Q]

    def fused_from(self, name: str) -> int:
        """The weighted operator whose kernel writes a tensor, through norms and activations; else -1."""
        index = self.maker(name)
        while self.op(index) in FUSED and self.is_private(self.nodes[index].input[0]):
            index = self.maker(self.nodes[index].input[0])
        return index if index in self._weighted else -1

    def is_quantized(self) -> bool:
        """Whether the graph has any Q or DQ."""
        return bool(self.quantizers or self.dequantizers)


_PLAIN = frozenset({"int8", "uint8", "int16", "uint16", "int32"})


def _least(zero: NDArray[Any]) -> int:
    return int(np.iinfo(zero.dtype).min)
