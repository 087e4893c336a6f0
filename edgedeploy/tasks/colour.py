"""Luma as super-resolution papers use it: BT.601 studio range of 8-bit RGB, divided by 255."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RGB_TO_Y = np.array([65.481, 128.553, 24.966], dtype=np.float64) / 255.0


def luma_from_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Y of an 8-bit RGB image (H, W, 3) as (H, W) float32 in [16/255, 235/255], as MATLAB's rgb2ycbcr."""
    return ((rgb @ _RGB_TO_Y + 16.0) / 255.0).astype(np.float32)
