"""Pixels of super-resolution: conversion of a network's output, tiles, and chroma."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError
from edgedeploy.task import Array, Image
from edgedeploy.vision.color import rgb_from_ycbcr, ycbcr_from_rgb

MARGIN = 8  # context pixels around a tile, unless the model states them; ESPCN sees 4 on each side


def to_pixels(luma: Array, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """A plane as pixels: float in [0, 1] times 255, rounded and clipped; integers are clipped."""
    if out is not None and out.shape != luma.shape:
        raise ValueError(f"memory of {out.shape} does not fit a plane of {luma.shape}")
    if luma.dtype == np.uint8:
        if out is None:
            return np.array(luma, dtype=np.uint8)
        out[:] = luma
        return out
    factor = 255.0 if luma.dtype.kind == "f" else 1.0
    if luma.dtype not in (np.float32, np.float64):
        luma = luma.astype(np.float32)
    # OpenCV multiplies, rounds, saturates and converts in one pass over memory; numpy needs four.
    pixels = cv2.multiply(luma, factor, dst=out, dtype=cv2.CV_8U)  # type: ignore[call-overload]
    return np.asarray(pixels, dtype=np.uint8)


def tiles(size: int, tile: int, margin: int = MARGIN) -> Iterator[tuple[int, tuple[int, int]]]:
    """Tiles that cover an axis: (start of the tile, (from, to) of its valid part); raises UsageError."""
    if tile < size and tile <= 2 * margin:
        raise UsageError(
            f"a model of {tile} pixels is too small to tile {size}", "export it for a larger size"
        )
    start = done = 0
    while done < size:
        last = start + tile >= size
        start = size - tile if last else start
        end = size if last else start + tile - margin
        yield start, (done, end)
        done, start = end, end - margin


def with_chroma(luma: NDArray[np.uint8], image: Image) -> Image:
    """RGB from enlarged luma and the chroma of the image, enlarged by bicubic interpolation."""
    height, width = luma.shape
    enlarged = cv2.resize(ycbcr_from_rgb(image), (width, height), interpolation=cv2.INTER_CUBIC)
    enlarged[:, :, 0] = luma
    return rgb_from_ycbcr(np.asarray(enlarged, dtype=np.float32))
