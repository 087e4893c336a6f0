"""Frames as grids of patches that do not overlap, counted row by row.

A frame that is no multiple of the patch size is padded by repeating its last pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PatchGrid:
    """The grid of patches of a frame, sizes in pixels; the last row and column may extend beyond the frame.

    Raises UsageError for sizes below 1 and for patches larger than the frame.
    """

    height: int
    width: int
    patch_height: int
    patch_width: int

    def __post_init__(self) -> None:
        if not (1 <= self.patch_height <= self.height and 1 <= self.patch_width <= self.width):
            raise UsageError(
                f"no patches of {self.patch_width}x{self.patch_height} "
                f"in a frame of {self.width}x{self.height}",
                "take patches of at least one pixel, and no larger than the frame",
            )

    @staticmethod
    def divide(height: int, width: int, rows: int, columns: int) -> PatchGrid:
        """The grid of the smallest equal patches of which `rows` x `columns` cover the frame.

        Rounding up the patch size can reduce the number of rows or columns. STDO has 10 rows of 20 at scales
        2 and 3, and 5 rows of 10 at scale 4, for an enlarged frame of 1920x1080.
        """
        if rows < 1 or columns < 1:
            raise UsageError(f"{rows} x {columns} is no grid", "give at least one row and one column")
        return PatchGrid(height, width, -(-height // rows), -(-width // columns))

    @property
    def rows(self) -> int:
        return -(-self.height // self.patch_height)

    @property
    def columns(self) -> int:
        return -(-self.width // self.patch_width)

    @property
    def count(self) -> int:
        """Number of patches of one frame."""
        return self.rows * self.columns

    def enlarged(self, scale: int) -> PatchGrid:
        """The grid of the same patches after super-resolution by `scale`."""
        return PatchGrid(*(scale * n for n in (self.height, self.width, self.patch_height, self.patch_width)))

    def corner(self, index: int) -> tuple[int, int]:
        """(y, x) of the top left pixel of patch `index`."""
        row, column = divmod(index, self.columns)
        return row * self.patch_height, column * self.patch_width

    def cut(self, frame: Pixels) -> Pixels:
        """A copy of the patches (count, patch_height, patch_width, C) of a frame (height, width, C)."""
        if frame.ndim != 3 or frame.shape[:2] != (self.height, self.width):
            raise UsageError(
                f"a frame of shape {frame.shape} is not {self.width}x{self.height}",
                "all frames of a video have one size, and pixels of (height, width, channels)",
            )
        below = self.rows * self.patch_height - self.height
        right = self.columns * self.patch_width - self.width
        padded = np.pad(frame, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else frame
        grid = padded.reshape(self.rows, self.patch_height, self.columns, self.patch_width, -1)
        shape = (self.count, self.patch_height, self.patch_width, frame.shape[2])
        patches: Pixels = grid.swapaxes(1, 2).reshape(shape).copy()
        return patches
