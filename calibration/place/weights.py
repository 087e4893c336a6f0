"""q = round(w / s), s = max |w| / 127, per output channel or for the whole tensor; zero-point 0.

Codes lie in [-127, 127], in a smaller range where a CPU would saturate. The scale of an all-zero channel is
1, because scales must be positive (H1). Arithmetic is float64; codes are those of the scale rounded to
float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from edgedeploy.core.pair_sums import LARGEST_PAIR, LEVELS, Product, code_limits, largest_pairs
from edgedeploy.graphs.view import attribute

# Above the smallest normal float32, because runtimes compute reciprocals.
SMALLEST_SCALE = 2.0**-100
# Tolerance of `on_grid` over a channel's peak: float32 rounding of codes times scale, twice.
ON_GRID = 2.0**-18
FEW = 8  # elements per channel below which a weight may lie on the grid by chance


def quantize_weight(
    w: NDArray[np.float32], axis: int | None, product: Product | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (shape of w) and scales: (channels,) along `axis`, or () for axis None.

    With `product` no pair of codes saturates the 16-bit sums of CPUs without VNNI (core/pair_sums.py): the
    scale of a channel grows as its largest pair requires.
    """
    others = tuple(i for i in range(w.ndim) if i != axis) if axis is not None else None
    step = np.abs(w).max(axis=others, initial=0.0).astype(np.float64) / LEVELS
    if product is not None:
        step = np.maximum(step, _of_axis(largest_pairs(w, product), axis, step.shape) / LARGEST_PAIR)
    scale = np.where(step > 0, np.maximum(step, SMALLEST_SCALE), 1.0).astype(np.float32)
    steps = w / along_axis(scale, axis, w.ndim)
    low, high = (-LEVELS, LEVELS) if product is None else code_limits(steps, product)
    return np.clip(np.rint(steps), low, high).astype(np.int8), scale


def product_of(node: NodeProto) -> Product:
    """How a Conv, ConvTranspose, Gemm or MatMul multiplies by its weight."""
    return Product(node.op_type, int(attribute(node, "group", 1)), bool(attribute(node, "transB", 0)))


def _of_axis(
    largest: NDArray[np.float64], axis: int | None, shape: tuple[int, ...]
) -> NDArray[np.float64] | float:
    """Largest pair per scale; several output channels may share a scale."""
    if axis is None or not largest.size:
        return float(largest.max(initial=0.0))
    # Grouped ConvTranspose: every group shares the scales along the weight's second axis.
    result: NDArray[np.float64] = largest.reshape(-1, *shape).max(axis=0)
    return result


def on_grid(w: NDArray[np.float32], axis: int) -> bool:
    """Whether a weight is int8 codes times scales, as after quantization-aware training."""
    if w.size < FEW * w.shape[axis]:
        return False
    codes, scale = quantize_weight(w, axis)
    step = along_axis(scale, axis, w.ndim)
    return bool((np.abs(codes * step - w) <= ON_GRID * LEVELS * step).all())


def along_axis(values: NDArray[Any], axis: int | None, rank: int) -> NDArray[np.float64]:
    """Scales or zero-points, () or (channels,), in float64, shaped to broadcast along an axis of a tensor."""
    wide = values.astype(np.float64)
    return np.asarray(wide if axis is None else wide.reshape([-1 if i == axis else 1 for i in range(rank)]))
