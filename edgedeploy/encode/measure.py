"""Errors of restored frames: over the video, per patch, and per patch as STDO scores it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.progress import Progress, reported
from edgedeploy.encode.clip import Clip
from edgedeploy.stdo.manifest import decibel
from edgedeploy.stdo.patches import PatchGrid, Pixels
from edgedeploy.stdo.restorer import Networks
from edgedeploy.vision.resize import imresize

Restore = Callable[[int, Pixels], Pixels]


@dataclass(frozen=True)
class Errors:
    """Mean squared errors of RGB pixels in 0..255.

    Attributes:
        total: over all pixels of all frames.
        patches: (F, P), over each patch.
        inner: (F, P), over each patch without a border of scale + 4 pixels, as STDO scores.
    """

    total: float
    patches: NDArray[np.float64]
    inner: NDArray[np.float64]

    @property
    def psnr(self) -> float:
        """PSNR in dB over the video."""
        return decibel(self.total)

    @property
    def scores(self) -> NDArray[np.float64]:
        """PSNR in dB of each patch, (F*P,); inf for an exact patch."""
        with np.errstate(divide="ignore"):
            return np.asarray(10 * np.log10(255.0**2 / self.inner.ravel()), np.float64)


def measure(
    clip: Clip,
    grid: PatchGrid,
    restore: Restore,
    frames: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Errors:
    """Errors of `restore(number, low-resolution frame)`, (scale*h, scale*w, 3) or cropped.

    `grid` is that of low resolution; `frames` None: all.
    """
    chosen = range(len(clip.low)) if frames is None else frames
    large, (height, width) = grid.enlarged(clip.scale), clip.high.shape[1:3]
    border = min(clip.scale + 4, (min(large.patch_height, large.patch_width) - 1) // 2)
    total, patches, inner = [], [], []
    for frame in reported(chosen, progress):
        restored, target = restore(frame, clip.low[frame]), clip.target(frame)
        # Pixels that the client crops have no error.
        full = target.copy()
        full[: restored.shape[0], : restored.shape[1]] = restored
        squares = np.square(np.subtract(full, target, dtype=np.int16), dtype=np.int32)
        total.append(float(squares[:height, :width].mean()))
        cut = large.cut(cast(Pixels, squares.astype(np.float32)))
        patches.append(cut.mean((1, 2, 3), dtype=np.float64))
        inner.append(cut[:, border:-border, border:-border].mean((1, 2, 3), dtype=np.float64))
    return Errors(float(np.mean(total)), np.stack(patches), np.stack(inner))


def restoring(networks: Networks, chunks: NDArray[np.uint8]) -> Restore:
    """Restore by networks; `chunks` (F, P) is the network of each patch."""
    return lambda index, low: networks.enlarge(low, chunks[index])


def bicubic(clip: Clip) -> Restore:
    """Restore by bicubic interpolation, the baseline without a network."""
    height, width = (clip.scale * side for side in clip.low.shape[1:3])
    return lambda _, low: np.asarray(imresize(np.asarray(low), height, width), dtype=np.uint8)
