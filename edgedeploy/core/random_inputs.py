"""Random tensors: the numbers that models are tried with where no data is at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 8  # pixels


def random_tensor(
    dtype: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    within: tuple[float, float] | None = None,
    largest: int = 4,
) -> NDArray[Any]:
    """One tensor of any shape and dtype.

    Args:
        dtype: numpy's name of a float, integer or boolean type; others raise TypeError.
        within: (low, high) of floats, which are then normal around its middle and clipped at three standard
            deviations; without it they are standard normal.
        largest: of integers wider than 8 bits, which begin at 0 and may be indices, sizes or masks. Integers
            of 8 bits cover their whole range.
    """
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        first, last = (info.min, info.max) if kind.itemsize == 1 else (0, largest)
        return np.asarray(rng.integers(first, last, shape, dtype=kind, endpoint=True))
    if kind.kind != "f":
        raise TypeError(f"no random numbers of type {dtype}")
    # Single precision is drawn as such: a float64 draw and its cast take three times the memory.
    drawn: NDArray[Any] = np.asarray(rng.standard_normal(shape, np.float64 if kind == "f8" else np.float32))
    if within is not None:
        low, high = within
        drawn = np.clip(drawn * ((high - low) / 6) + (low + high) / 2, low, high)
    return drawn.astype(kind, copy=False)


def random_blocks(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Images (N, C, H, W) of squares of 8 x 8 pixels, each of one standard normal value."""
    count, channels, height, width = shape
    coarse = (count, channels, -(-height // BLOCK), -(-width // BLOCK))
    squares = rng.standard_normal(coarse, np.float32).repeat(BLOCK, axis=2).repeat(BLOCK, axis=3)
    return squares[:, :, :height, :width]
