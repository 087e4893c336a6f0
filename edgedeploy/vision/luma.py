"""Planes of luma, or RGB, on their way to and from a network: pixels, tiles, and the chroma of luma."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError
from edgedeploy.task import Array, Image
from edgedeploy.vision.color import rgb_from_ycbcr, ycbcr_from_rgb

MARGIN = 8  # pixels around a tile that only serve as context, unless the model says; ESPCN sees 4 each way


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
    # OpenCV saturates and rounds while it converts: one pass over memory instead of numpy's four.
    pixels = cv2.multiply(luma, factor, dst=out, dtype=cv2.CV_8U)  # type: ignore[call-overload]
    return np.asarray(pixels, dtype=np.uint8)


def tiles(size: int, tile: int, margin: int = MARGIN) -> Iterator[tuple[int, tuple[int, int]]]:
    """Places of tiles that cover an axis: (start of the tile, the (from, to) that it is good for)."""
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
    """RGB of enlarged luma and the bicubically enlarged chroma of the image."""
    height, width = luma.shape
    enlarged = cv2.resize(ycbcr_from_rgb(image), (width, height), interpolation=cv2.INTER_CUBIC)
    enlarged[:, :, 0] = luma
    return rgb_from_ycbcr(np.asarray(enlarged, dtype=np.float32))
