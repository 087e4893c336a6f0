"""Frames as grids of patches that do not overlap, and back.

A patch has a number: p + f P for patch p = 1..P of frame f = 0, 1, ..., row by row, as the released code of
STDO numbers them. Frames that no whole number of patches covers are padded by repeating their last pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PatchGrid:
    """How frames of one size are cut.

    Attributes:
        height, width: of a frame, in pixels.
        patch_height, patch_width: of a patch, in pixels; the last row and column may reach over the frame.

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
        """The grid of the smallest equal patches with which `rows` x `columns` cover the frame.

        Where rounding up makes the patches so large that fewer rows or columns suffice, there are fewer. STDO
        has 10 rows of 20 at scales 2 and 3, and 5 rows of 10 at 4, for 1920x1080 enlarged.
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
        """P, the patches of one frame."""
        return self.rows * self.columns

    def enlarged(self, scale: int) -> PatchGrid:
        """The grid of the same patches after super-resolution by `scale`."""
        return PatchGrid(*(scale * n for n in (self.height, self.width, self.patch_height, self.patch_width)))

    def number(self, frame: int, index: int) -> int:
        """Number, from 1, of the patch at `index` = 0..P-1 of frame 0, 1, ..."""
        if frame < 0 or not 0 <= index < self.count:
            raise ValueError(f"frame {frame} has no patch {index}; there are {self.count} a frame")
        return frame * self.count + index + 1

    def place(self, number: int) -> tuple[int, int]:
        """(frame, index) of a patch; the inverse of `number`."""
        if number < 1:
            raise ValueError(f"patches are numbered from 1, not {number}")
        return divmod(number - 1, self.count)

    def cut(self, frame: Pixels) -> Pixels:
        """Patches (P, patch_height, patch_width, C) of a frame (height, width, C), rows first; a copy."""
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

    def paste(self, patches: Pixels) -> Pixels:
        """The frame (height, width, C) of patches (P, patch_height, patch_width, C); padding is cut off."""
        if patches.ndim != 4 or patches.shape[:3] != (self.count, self.patch_height, self.patch_width):
            raise UsageError(
                f"patches of shape {patches.shape} do not make a frame",
                f"this grid has {self.count} of {self.patch_width}x{self.patch_height}",
            )
        grid = patches.reshape(self.rows, self.columns, *patches.shape[1:]).swapaxes(1, 2)
        padded = grid.reshape(self.rows * self.patch_height, self.columns * self.patch_width, -1)
        return np.ascontiguousarray(padded[: self.height, : self.width])
