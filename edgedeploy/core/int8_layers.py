"""The INT8 weights of an ONNX file, read without the onnx package: which of them can saturate 16-bit sums.

Weights are those behind DequantizeLinear, or of operators on codes. Only the main graph is read, and only
weights in the file itself: what cannot be read is not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.onnx_header import NodeEntry, TensorEntry, graph_entries
from edgedeploy.core.operators import WEIGHTED
from edgedeploy.core.pair_sums import Product, saturating

# Operators on codes -> the float operator, and the position of the weight.
ON_CODES = {
    "QLinearConv": ("Conv", 3),
    "QLinearMatMul": ("MatMul", 3),
    "QGemm": ("Gemm", 3),
    "ConvInteger": ("Conv", 1),
    "MatMulInteger": ("MatMul", 1),
}
INT8 = 3  # TensorProto.DataType


@dataclass(frozen=True)
class SaturatingLayers:
    """Layers whose weights can saturate, among all INT8 ones of a file.

    Attributes:
        names: of the layers that can.
        of: how many INT8 layers there are.
        shared_zeros: whether layers share a zero-point; ONNX Runtime's exact mode refuses such files.
    """

    names: tuple[str, ...]
    of: int
    shared_zeros: bool = False


def saturating_layers(path: Path) -> SaturatingLayers:
    """The layers of an ONNX file whose INT8 codes can saturate where two products are added in 16 bits.

    Raises ArtifactError for a file that is no whole ONNX model.
    """
    nodes, tensors = graph_entries(path)
    behind = [
        node
        for node in nodes
        if node.op == "DequantizeLinear" and node.inputs and node.outputs and node.inputs[0] in tensors
    ]
    codes = {node.outputs[0]: node.inputs[0] for node in behind}
    zeros = Counter(node.inputs[2] for node in behind if len(node.inputs) > 2 and node.inputs[2])
    found, count = [], 0
    # Without codes of activations only weights are INT8, and products are float.
    if not any(node.op in {"QuantizeLinear", *ON_CODES} for node in nodes):
        return SaturatingLayers((), 0)
    for node in nodes:
        op, position = ON_CODES.get(node.op, (node.op, 1))
        if op not in WEIGHTED or len(node.inputs) <= position:
            continue
        name = node.inputs[position]
        tensor = tensors.get(name if node.op in ON_CODES else codes.get(name, ""))
        value = None if tensor is None else _codes(tensor)
        if value is None:
            continue
        count += 1
        product = _product(op, node)
        if _fits(value, product) and saturating(value, product):
            found.append(node.name or node.outputs[0])
    return SaturatingLayers(tuple(found), count, any(uses > 1 for uses in zeros.values()))


def _product(op: str, node: NodeEntry) -> Product:
    return Product(op, node.numbers.get("group", 1), bool(node.numbers.get("transB", 0)))


def _fits(codes: NDArray[np.int8], product: Product) -> bool:
    """Whether the shape is one that the operator takes; a damaged file's need not be."""
    if product.op in {"Conv", "ConvTranspose"}:
        return codes.ndim >= 3 and product.group >= 1 and codes.shape[0] % product.group == 0
    return codes.ndim >= 2 if product.op == "MatMul" else codes.ndim == 2


def _codes(tensor: TensorEntry) -> NDArray[np.int8] | None:
    """The codes of an int8 tensor that stands in the file; None for another one."""
    size = math.prod(tensor.shape)
    if tensor.kind != INT8 or not size:
        return None
    if tensor.words and not tensor.raw:
        values = np.array(tensor.numbers(), np.uint64).astype(np.int8)
    else:
        values = np.frombuffer(tensor.raw, np.int8)
    return values.reshape(tensor.shape) if values.size == size else None
