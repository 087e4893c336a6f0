"""Counts of a model: nodes by operator, norms, parameters, bytes, multiply-accumulates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx

from edgedeploy.export.match.shapes import infer, is_static
from edgedeploy.graphs.surgeon import Node, Tensor, load
from edgedeploy.graphs.weights import bytes_of, tensors

NORMS = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
    }
)
_NUMBERS = frozenset(
    getattr(onnx.TensorProto, name) for name in ("FLOAT16", "FLOAT", "DOUBLE", "BFLOAT16", "INT8", "UINT8")
)


@dataclass(frozen=True)
class ModelCounts:
    """Counts of one model.

    Attributes:
        operators: number of nodes by operator, without bodies of If and Loop.
        nodes: sum of `operators`.
        norms: number of normalizations.
        parameters: values of floating-point and 8-bit constants, bodies included.
        bytes: of all constants.
        macs: multiply-accumulates of convolutions and matrix products; None where a size is unknown.
    """

    operators: dict[str, int] = field(default_factory=dict)
    nodes: int = 0
    norms: int = 0
    parameters: int = 0
    bytes: int = 0
    macs: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def count_model(model: onnx.ModelProto) -> ModelCounts:
    """Count a model without reading its weights."""
    operators = Counter(node.op_type for node in model.graph.node)
    parameters = size = 0
    for tensor in tensors(model):
        count = math.prod(tensor.dims)
        size += bytes_of(tensor)
        parameters += count if tensor.data_type in _NUMBERS else 0
    norms = sum(count for name, count in operators.items() if name in NORMS)
    ordered = dict(sorted(operators.items(), key=lambda entry: (-entry[1], entry[0])))
    return ModelCounts(ordered, sum(operators.values()), norms, parameters, size, _macs(model))


def _macs(model: onnx.ModelProto) -> int | None:
    try:
        graph = load(model)
        infer(graph)
        return sum(_macs_of(node) for node in graph.nodes)
    except (TypeError, ValueError):  # a size is missing
        return None
    except Exception:  # noqa: BLE001  graph surgery cannot read it
        return None


def _macs_of(node: Node) -> int:
    """Multiply-accumulates of one node; raises TypeError where a size is not known."""
    if node.op in ("Conv", "ConvTranspose"):
        image, w = node.outputs[0] if node.op == "Conv" else node.inputs[0], _sizes(node.inputs[1])
        return int(math.prod(_sizes(image)) * math.prod(w[1:]))
    if node.op == "Gemm":
        a = _sizes(node.inputs[0])
        return int(math.prod(_sizes(node.outputs[0]))) * (a[0] if node.attrs.get("transA") else a[-1])
    if node.op == "MatMul":
        return int(math.prod(_sizes(node.outputs[0]))) * _sizes(node.inputs[0])[-1]
    return 0


def _sizes(tensor: Tensor) -> Sequence[int]:
    if not is_static(tensor.shape):
        raise TypeError(f"{tensor.name} has no fixed size")
    return tensor.shape
