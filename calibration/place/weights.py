"""q = round(w / s), s = max |w| / 127, per output channel or for the whole tensor; zero-point 0.

The range is [-127, 127], symmetric, so that negating a weight negates its code; less where a CPU would
saturate. A channel of zeros gets scale 1, for scales must be positive (H1). Arithmetic in float64; codes are
of the scale rounded to float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from edgedeploy.core.pair_sums import LARGEST_PAIR, LEVELS, Product, code_limits, largest_pairs
from edgedeploy.graphs.view import attribute

# The smallest normal float32 would do for us, but runtimes take reciprocals.
SMALLEST_SCALE = 2.0**-100


ON_GRID = (
    2.0**-18
)  # of a channel's peak: what float32 loses when codes times scale are stored and scaled again
FEW = 8  # elements a channel, which a grid of 255 levels may hold by chance


def quantize_weight(
    w: NDArray[np.float32], axis: int | None, product: Product | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (shape of w) and scales: (channels,) along `axis`, or () for axis None.

    With `product` no two codes that a kernel without VNNI adds can saturate its 16 bits (core/pair_sums.py):
    a channel's step grows as far as its largest pair needs.
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
    """Figures of output channels as figures of scales: several channels may share one."""
    if axis is None or not largest.size:
        return float(largest.max(initial=0.0))
    # Grouped ConvTranspose: the scales of its weight's second axis hold for that channel of every group.
    result: NDArray[np.float64] = largest.reshape(-1, *shape).max(axis=0)
    return result


def on_grid(w: NDArray[np.float32], axis: int) -> bool:
    """Whether a weight is int8 codes times scales already, as quantization-aware training leaves it."""
    if w.size < FEW * w.shape[axis]:
        return False
    codes, scale = quantize_weight(w, axis)
    step = along_axis(scale, axis, w.ndim)
    return bool((np.abs(codes * step - w) <= ON_GRID * LEVELS * step).all())


def along_axis(values: NDArray[Any], axis: int | None, rank: int) -> NDArray[np.float64]:
    """Scales or zero-points, () or (channels,), in float64, shaped to broadcast along an axis of a tensor."""
    wide = values.astype(np.float64)
    return np.asarray(wide if axis is None else wide.reshape([-1 if i == axis else 1 for i in range(rank)]))
