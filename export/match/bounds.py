"""Clip, Relu, Max and Min with constants in one form: y = min(max(x, low), high)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgedeploy.export.match.polynomial import require_float, scalar
from edgedeploy.graphs.surgeon import (
    Graph,
    Node,
    Skip,
    Tensor,
    absent,
    constant,
    dtype_name,
    has,
    is_constant,
    value_of,
)

BOUNDING = ("Clip", "Relu", "Max", "Min")
_LARGEST = float(np.finfo(np.float32).max)


def bounds_of(node: Node) -> tuple[Tensor, float, float]:
    """(x, low, high), infinite where unbounded; raises Skip for other operators and for integers."""
    if node.op not in BOUNDING:
        raise Skip(f"{node.op} does not bound")
    require_float(node.outputs[0])
    if node.op == "Relu":
        return node.inputs[0], 0.0, math.inf
    if node.op == "Clip":
        return _clip_bounds(node)
    if len(node.inputs) != 2:
        raise Skip(f"{node.op} has {len(node.inputs)} operands")
    first, second = node.inputs
    x, bound = (second, first) if is_constant(first) else (first, second)
    limit = scalar(bound) if is_constant(bound) else None
    if limit is None:
        raise Skip(f"{node.op} has no scalar constant")
    values = value_of(bound, "the bound")
    if is_constant(x) or (values.ndim and (x.shape is None or len(x.shape) < values.ndim)):
        raise Skip("the constant may broadcast the tensor to a larger rank")
    return (x, limit, math.inf) if node.op == "Max" else (x, -math.inf, limit)


def clip_arguments(
    graph: Graph, x: Tensor, hint: str, low: float, high: float
) -> tuple[list[Tensor], dict[str, Any]]:
    """(inputs, attributes) of a Clip of x; bounds are attributes before opset 11."""
    attrs = {key: bound for key, bound in (("min", low), ("max", high)) if math.isfinite(bound)}
    if graph.opset < 11:
        return [x], attrs
    dtype = np.dtype(dtype_name(x) or "float32")
    limits = [
        constant(graph, f"{hint}_{key}", np.asarray(attrs[key], dtype)) if key in attrs else absent()
        for key in ("min", "max")
    ]
    return [x, *limits[: 2 if "max" in attrs else 1]], {}


def _clip_bounds(node: Node) -> tuple[Tensor, float, float]:
    limits = [float(node.attrs.get("min", -math.inf)), float(node.attrs.get("max", math.inf))]
    for index in (1, 2):
        if has(node, index):
            value = scalar(node.inputs[index])
            if value is None:
                raise Skip("a bound is computed")
            limits[index - 1] = value
    low, high = limits
    # Exporters write an unbounded Clip as a Clip at the largest float.
    return node.inputs[0], -math.inf if low <= -_LARGEST else low, math.inf if high >= _LARGEST else high
