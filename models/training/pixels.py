"""Normalization of training examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.task import Image


class Normalize:
    """RGB pixels (H, W, 3) -> planes (3, H, W) float32: (x - mean) / std, as the task does.

    Args:
        options: of the task: `mean` and `std` of the channels in 0..255, and `channel_order` (RGB).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.mean, self.std = (np.asarray(options[name], np.float32) for name in ("mean", "std"))
        self.step = -1 if options.get("channel_order") == "BGR" else 1

    def __call__(self, image: Image) -> NDArray[np.float32]:
        planes = (image[:, :, :: self.step].astype(np.float32) - self.mean) / self.std
        return np.ascontiguousarray(planes.transpose(2, 0, 1), np.float32)
