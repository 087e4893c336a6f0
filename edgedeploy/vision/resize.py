"""Bicubic resizing of super-resolution data sets: MATLAB's imresize (a = -0.5, antialiased).

Separable, in float64; the kernel of a shrinking axis is stretched by the factor, border pixels are repeated,
and 8-bit images are rounded after each axis. The result equals the low-resolution images of Set5 bit by bit.
Keys, "Cubic convolution interpolation for digital image processing", 1981.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def imresize(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize (H, W) or (H, W, C) to (height, width); uint8 stays uint8, other types become float64."""
    if min(height, width, *image.shape[:2]) < 1:
        raise ValueError(f"cannot resize {image.shape[:2]} to {(height, width)}")
    factors = (height / image.shape[0], width / image.shape[1])
    result = image
    for axis in sorted((0, 1), key=lambda a: factors[a]):  # MATLAB starts with the axis that shrinks most
        result = _along(result, (height, width)[axis], axis)
    return result


def cubic(x: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.asarray(np.where(x <= 1, near, np.where(x <= 2, far, 0.0)), np.float64)


def contributions(size: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(source samples, weights) of every target sample, both (target, taps); weights sum to 1."""
    scale = target / size
    stretch = min(scale, 1.0)
    reach = 2.0 / stretch
    center = (np.arange(target) + 0.5) / scale - 0.5
    first = np.floor(center - reach).astype(np.intp)
    index = first[:, None] + np.arange(math.ceil(2 * reach) + 2)
    weight = stretch * cubic(stretch * (center[:, None] - index))
    weight /= weight.sum(axis=1, keepdims=True)
    used = np.flatnonzero(np.any(weight != 0, axis=0))
    return np.clip(index[:, used], 0, size - 1), weight[:, used]


def _along(image: NDArray[Any], target: int, axis: int) -> NDArray[Any]:
    if image.shape[axis] == target:
        return image
    index, weight = contributions(image.shape[axis], target)
    shape = [1] * image.ndim
    shape[axis] = target
    total = sum(
        np.take(image, index[:, tap], axis=axis) * weight[:, tap].reshape(shape)
        for tap in range(index.shape[1])
    )
    result = np.asarray(total, dtype=np.float64)
    if image.dtype != np.uint8:
        return result
    return np.clip(np.floor(result + 0.5), 0, 255).astype(np.uint8)
