"""Patches with a halo: pixels of the frame around a patch, as context for its network.

Without a halo the network pads with zeros, and the border of every patch is visible. With a halo as wide as
the receptive field a patch equals that part of the enlarged frame; seams remain only between two networks.
The paper has no halo. Outside the frame its border pixels are repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgedeploy.stdo.patches import PatchGrid, Pixels


@dataclass(frozen=True)
class HaloGrid:
    """A grid of patches, each with `halo` more pixels on every side."""

    grid: PatchGrid
    halo: int

    def extended(self, frame: Pixels) -> Pixels:
        """A frame (H, W, 3) with the halo of its patches; raises ValueError for another size."""
        grid = self.grid
        if frame.shape[:2] != (grid.height, grid.width):
            raise ValueError(f"a frame of {frame.shape[:2]} is not {grid.height, grid.width}")
        below = grid.rows * grid.patch_height - grid.height + self.halo
        right = grid.columns * grid.patch_width - grid.width + self.halo
        return _bordered(frame, self.halo, below, self.halo, right)

    def surrounded(self, frame: Pixels) -> Pixels:
        """The frame with a halo, for a network that takes the whole frame."""
        return _bordered(frame, *[self.halo] * 4)

    def cut(self, extended: Pixels, index: int) -> Pixels:
        """Patch `index` with its halo: a view of an `extended` frame."""
        y, x = self.grid.corner(index)
        height, width = self.seen
        return extended[y : y + height, x : x + width]

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of a patch with its halo."""
        return self.grid.patch_height + 2 * self.halo, self.grid.patch_width + 2 * self.halo

    def gather(self, frame: Pixels, index: int) -> Pixels:
        """A copy of `cut(extended(frame), index)`, without extending the frame."""
        y, x = self.grid.corner(index)
        height, width = self.seen
        rows, columns = np.arange(height) + y - self.halo, np.arange(width) + x - self.halo
        rows, columns = rows.clip(0, frame.shape[0] - 1), columns.clip(0, frame.shape[1] - 1)
        return frame[rows[:, None], columns]

    def paste(self, frame: Pixels, index: int, restored: Pixels, scale: int) -> None:
        """Write an enlarged patch without its halo into an enlarged frame (scale*H, scale*W, 3)."""
        top, left = (scale * at for at in self.grid.corner(index))
        place = frame[top : top + scale * self.grid.patch_height, left : left + scale * self.grid.patch_width]
        height, width = place.shape[:2]
        around = scale * self.halo
        place[:] = restored[around : around + height, around : around + width]


def _bordered(frame: Pixels, top: int, bottom: int, left: int, right: int) -> Pixels:
    if not (top or bottom or left or right):
        return frame
    bordered = cv2.copyMakeBorder(frame, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return np.asarray(bordered, dtype=np.uint8)
