"""Patches with a halo: what surrounds a patch in its frame, which its network sees too.

Without one, zeros of padding stand where the picture goes on, and every patch shows its border. A halo as
wide as the network's receptive field makes a patch come out just as it does in the whole frame; seams are
left only where two networks meet. The paper cuts without one. Outside the frame its last pixels are repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgedeploy.stdo.patches import PatchGrid, Pixels


@dataclass(frozen=True)
class HaloGrid:
    """A grid of patches that overlap their surroundings.

    Attributes:
        grid: the patches without it.
        halo: pixels on each side.
    """

    grid: PatchGrid
    halo: int

    def extended(self, frame: Pixels) -> Pixels:
        """A frame (H, W, 3) with all that its patches see; raises ValueError for another size."""
        grid = self.grid
        if frame.shape[:2] != (grid.height, grid.width):
            raise ValueError(f"a frame of {frame.shape[:2]} is not {grid.height, grid.width}")
        below = grid.rows * grid.patch_height - grid.height + self.halo
        right = grid.columns * grid.patch_width - grid.width + self.halo
        return _bordered(frame, self.halo, below, self.halo, right)

    def surrounded(self, frame: Pixels) -> Pixels:
        """The whole frame with a halo, for a network that takes it at once."""
        return _bordered(frame, *[self.halo] * 4)

    def cut(self, extended: Pixels, index: int) -> Pixels:
        """Patch `index` with its halo, a view of an `extended` frame."""
        y, x = divmod(index, self.grid.columns)
        y, x = y * self.grid.patch_height, x * self.grid.patch_width
        height, width = self.seen
        return extended[y : y + height, x : x + width]

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of a patch with its halo."""
        return self.grid.patch_height + 2 * self.halo, self.grid.patch_width + 2 * self.halo

    def gather(self, frame: Pixels, index: int) -> Pixels:
        """`cut(extended(frame), index)`, a copy, without extending the whole frame for one patch."""
        y, x = divmod(index, self.grid.columns)
        height, width = self.seen
        rows = np.arange(height) + y * self.grid.patch_height - self.halo
        columns = np.arange(width) + x * self.grid.patch_width - self.halo
        rows, columns = rows.clip(0, frame.shape[0] - 1), columns.clip(0, frame.shape[1] - 1)
        return frame[rows[:, None], columns]

    def paste(self, frame: Pixels, index: int, restored: Pixels, scale: int) -> None:
        """Put the enlarged patch into an enlarged frame (scale*H, scale*W, 3); its halo is cut off."""
        y, x = divmod(index, self.grid.columns)
        top, left = scale * y * self.grid.patch_height, scale * x * self.grid.patch_width
        place = frame[top : top + scale * self.grid.patch_height, left : left + scale * self.grid.patch_width]
        height, width = place.shape[:2]
        around = scale * self.halo
        place[:] = restored[around : around + height, around : around + width]


def _bordered(frame: Pixels, top: int, bottom: int, left: int, right: int) -> Pixels:
    if not (top or bottom or left or right):
        return frame
    bordered = cv2.copyMakeBorder(frame, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return np.asarray(bordered, dtype=np.uint8)
