"""|255 (w_1 + w_2)| <= 32767: what INT8 weights must keep where two products are added in 16 bits.

x86 without VNNI multiplies unsigned activation codes by signed weight codes with an instruction, vpmaddubsw,
that adds the products of two neighboring inputs and saturates at 16 bits. Neighbors are two input channels of
one kernel tap, as OpenVINO pairs them. ONNX Runtime also pairs across taps where the number of channels is
odd. Signed activations are shifted to unsigned ones first, so they saturate alike. Depthwise kernels do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# floor(32767 / 255): the largest sum of two weight codes of one sign whose products with 255 fit 16 bits.
LARGEST_PAIR = 128
LEVELS = 127


@dataclass(frozen=True)
class Product:
    """How an operator multiplies by its weight.

    Attributes:
        op: Conv, ConvTranspose, Gemm or MatMul.
        group: of a convolution.
        transposed: whether a Gemm's weight is (outputs, inputs).
    """

    op: str
    group: int = 1
    transposed: bool = False


def as_rows(w: NDArray[Any], product: Product) -> NDArray[Any]:
    """A weight as (output channels, kernel taps, input channels)."""
    if product.op == "Conv":
        return np.moveaxis(w.reshape(*w.shape[:2], -1), 1, 2)
    if product.op == "ConvTranspose":
        split = w.reshape(product.group, w.shape[0] // product.group, w.shape[1], -1)
        return np.asarray(split.transpose(0, 2, 3, 1).reshape(-1, split.shape[3], split.shape[1]))
    matrix = w if product.transposed else np.swapaxes(w, -1, -2)
    return np.asarray(matrix.reshape(-1, 1, matrix.shape[-1]))


def from_rows(rows: NDArray[Any], product: Product, shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of `as_rows` for a weight of this shape."""
    if product.op == "Conv":
        result = np.moveaxis(rows, 2, 1).reshape(shape)
    elif product.op == "ConvTranspose":
        split = rows.reshape(product.group, shape[1], rows.shape[1], rows.shape[2])
        result = split.transpose(0, 3, 1, 2).reshape(shape)
    elif product.transposed:
        result = rows.reshape(shape)
    else:
        result = np.swapaxes(rows.reshape(*shape[:-2], shape[-1], shape[-2]), -1, -2)
    return np.ascontiguousarray(result)


def neighbors(w_shape: tuple[int, ...], product: Product) -> NDArray[np.int64]:
    """Pairs (n, 2) of positions in a flattened row of `as_rows` whose products are added in 16 bits."""
    if product.op in {"Conv", "ConvTranspose"}:
        depth = w_shape[1] if product.op == "Conv" else w_shape[0] // product.group
        taps = int(np.prod(w_shape[2:], dtype=np.int64))
        if product.op == "Conv" and depth == 1 and product.group == w_shape[0] > 1:
            return np.zeros((0, 2), np.int64)
    else:
        depth, taps = w_shape[-1] if product.transposed else w_shape[-2], 1
    starts = np.arange(0, depth - 1, 2)
    found = (np.arange(taps)[:, None] * depth + starts).reshape(-1)
    if depth % 2 and taps > 1:
        found = np.unique(np.concatenate([found, np.arange(0, taps * depth - 1, 2)]))
    return np.stack([found, found + 1], axis=1).astype(np.int64)


def largest_pairs(w: NDArray[Any], product: Product) -> NDArray[np.float64]:
    """Per output channel, the largest magnitude of a sum of two neighbors of one sign."""
    first, second = neighbors(w.shape, product).T
    rows = as_rows(w, product)
    flat = rows.reshape(rows.shape[0], -1).astype(np.float64)
    if not first.size:
        return np.zeros(flat.shape[0])
    largest = np.zeros(flat.shape[0])
    for signed in (np.maximum(flat, 0), np.maximum(-flat, 0)):
        largest = np.maximum(largest, (signed[:, first] + signed[:, second]).max(axis=1))
    return largest


def saturating(codes: NDArray[Any], product: Product) -> int:
    """Number of output channels whose codes can saturate a sum of two products."""
    return int((largest_pairs(codes, product) > LARGEST_PAIR).sum())


def code_limits(steps: NDArray[Any], product: Product) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest code of every weight, in the weight's shape: no choice between them can saturate.

    `steps` are weights in units of their step. What a pair leaves of LARGEST_PAIR is shared between its two
    weights; where it leaves nothing, the larger magnitudes are cut.
    """
    pairs = neighbors(steps.shape, product)
    rows = as_rows(np.asarray(steps, np.float64), product)
    flat = rows.reshape(rows.shape[0], -1)
    ends = []
    for magnitude in (np.maximum(-flat, 0), np.maximum(flat, 0)):
        most = np.full(flat.shape, float(LEVELS))
        for mine, other in (
            pairs.T,
            pairs.T[::-1],
        ):  # a weight is the first of one pair at most, and the second
            spare = LARGEST_PAIR - magnitude[:, mine] - magnitude[:, other]
            share = np.floor(np.maximum(magnitude[:, mine] + spare / 2, 0))
            most[:, mine] = np.minimum(most[:, mine], share)
        ends.append(from_rows(most.reshape(rows.shape), product, steps.shape))
    return -ends[0], ends[1]
