"""BT.601 studio-range color as in super-resolution papers: MATLAB's rgb2ycbcr and its inverse.

Y lies in 16..235, Cb and Cr in 16..240; papers divide luma by 255 for the network.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_RGB_TO_YCBCR = (
    np.array(
        [
            [65.481, 128.553, 24.966, 16 * 255],
            [-37.797, -74.203, 112.0, 128 * 255],
            [112.0, -93.786, -18.214, 128 * 255],
        ]
    )
    / 255.0
)
_INVERSE = np.linalg.inv(_RGB_TO_YCBCR[:, :3])
_YCBCR_TO_RGB = np.column_stack([_INVERSE, -_INVERSE @ _RGB_TO_YCBCR[:, 3]])


def luma_from_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Y of an 8-bit RGB image (H, W, 3) as (H, W) float32 in [16/255, 235/255], as MATLAB's rgb2ycbcr."""
    return ((rgb @ _RGB_TO_YCBCR[0, :3] + 16.0) / 255.0).astype(np.float32)


def ycbcr_from_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Y, Cb, Cr of an 8-bit RGB image, (H, W, 3) float32 in 0..255, not rounded."""
    return np.asarray(cv2.transform(rgb.astype(np.float32), _RGB_TO_YCBCR), dtype=np.float32)


def rgb_from_ycbcr(ycbcr: NDArray[np.float32]) -> NDArray[np.uint8]:
    """8-bit RGB (H, W, 3) of Y, Cb, Cr in 0..255; values outside the gamut are clipped."""
    rgb = cv2.transform(np.asarray(ycbcr, np.float32), _YCBCR_TO_RGB)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
