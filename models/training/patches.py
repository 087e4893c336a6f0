"""Pairs of low- and high-resolution luma patches from folders of photographs.

Every batch is a pure function of (seed, step), so a resumed training sees the same batches. The memory for
decoded images decides how fast a batch is, not its content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from edgedeploy.core.errors import UsageError
from edgedeploy.task import Image
from edgedeploy.vision.color import luma_from_rgb
from edgedeploy.vision.images import is_image, read_image

Pair = tuple[Tensor, Tensor]


class PatchSettings(Protocol):
    """Settings of folders and patches; see experiments/super_resolution.py."""

    @property
    def scale(self) -> int: ...
    @property
    def folders(self) -> tuple[str, ...]: ...
    @property
    def patch(self) -> int: ...
    @property
    def shrink(self) -> tuple[float, ...]: ...
    @property
    def memory(self) -> float: ...


@dataclass(frozen=True)
class Source:
    """A photograph, its shrink factor, and the size (H, W) of the low-resolution image."""

    file: Path
    factor: float
    low_size: tuple[int, int]


@dataclass(frozen=True)
class Pairs:
    """Low- and high-resolution images by number.

    Attributes:
        scale: high resolution over low.
        sources: of the pairs.
        weights: probability of each pair.
        kept: luma of the pairs in memory, (H, W) and (s*H, s*W); others are decoded when drawn.
    """

    scale: int
    sources: list[Source]
    weights: NDArray[np.float64]
    kept: dict[int, Pair] = field(default_factory=dict)

    def patch(self, index: int, y: int, x: int, side: int) -> Pair:
        """Luma of a window of the low-resolution image (side, side), and of the high one (s*side, s*side).

        Each of the 2^24 colors has one float32 luma in any order of summation: a patch is the same, bit for
        bit, whether cropped from luma or cropped from RGB.
        """
        large = [self.scale * number for number in (y, x, side)]
        windows = [np.s_[top : top + edge, left : left + edge] for top, left, edge in ((y, x, side), large)]
        if index in self.kept:
            low, high = self.kept[index]
            return low[windows[0]], high[windows[1]]
        low_pixels, high_pixels = self.picture(index)
        return _luma(low_pixels[windows[0]]), _luma(high_pixels[windows[1]])

    def picture(self, index: int) -> tuple[Image, Image]:
        """A pair in RGB, decoded: low (H, W, 3) and high resolution (s*H, s*W, 3)."""
        source = self.sources[index]
        return _make_pair(Pillow.fromarray(read_image(source.file)), source, self.scale)


def load_pairs(root: Path, settings: PatchSettings) -> Pairs:
    """The pairs of every image; folders are drawn equally often, their images by area.

    Low resolution as in test sets: antialiased bicubic (a = -0.5) on 8-bit RGB, then luma. `shrink` adds
    copies at smaller sizes: more fine detail from a small set. Images smaller than a patch are skipped. Every
    image is decoded once, and `memory` limits the pairs that are kept. Raises UsageError for a folder without
    images, and for a damaged image.
    """
    pairs = Pairs(settings.scale, [], np.empty(0))
    weights, room = [], settings.memory * 1e9
    for folder in settings.folders:
        areas = []
        for file in sorted(path for path in _entries(root / folder) if is_image(path)):
            photograph = Pillow.fromarray(read_image(file))
            for source in _sources(file, photograph, settings):
                area = source.low_size[0] * source.low_size[1]
                size = 4 * area * (1 + settings.scale**2)
                if size <= room:
                    room -= size
                    low, high = _make_pair(photograph, source, settings.scale)
                    pairs.kept[len(pairs.sources)] = _luma(low), _luma(high)
                pairs.sources.append(source)
                areas.append(float(area))
        if not areas:
            raise UsageError(
                f"{root / folder} has no image of at least {settings.patch * settings.scale} pixels each way",
                "name the folder that holds the recipe's folders with --data",
            )
        weights.append(np.array(areas) / sum(areas) / len(settings.folders))
    return replace(pairs, weights=np.concatenate(weights))


def draw_batch(
    pairs: Pairs, settings: PatchSettings, *, batch: int, positions: Sequence[int], seed: int, step: int
) -> Pair:
    """Examples at these positions of a step's batch: random patches, flipped, transposed, (N, 1, h, w)."""
    rng = np.random.default_rng([seed, step])
    p = settings.patch
    drawn = []
    for index in rng.choice(len(pairs.sources), size=batch, p=pairs.weights):
        y, x = (int(rng.integers(0, n - p + 1)) for n in pairs.sources[index].low_size)
        flips = [axis for axis in (0, 1) if rng.integers(2)]
        drawn.append((int(index), y, x, flips, bool(rng.integers(2))))
    lows, highs = [], []
    for index, y, x, flips, transposed in (drawn[position] for position in positions):
        patches = [patch.flip(flips) for patch in pairs.patch(index, y, x, p)]
        if transposed:
            patches = [patch.T for patch in patches]
        lows.append(patches[0])
        highs.append(patches[1])
    return torch.stack(lows).unsqueeze(1), torch.stack(highs).unsqueeze(1)


def _sources(file: Path, photograph: Pillow.Image, settings: PatchSettings) -> Iterable[Source]:
    """The photograph at every factor at which it holds a patch."""
    for factor in settings.shrink:
        height, width = (
            max(1, _shrunk(side, factor) // settings.scale) for side in (photograph.height, photograph.width)
        )
        if min(height, width) >= settings.patch:
            yield Source(file, factor, (height, width))


def _make_pair(photograph: Pillow.Image, source: Source, scale: int) -> tuple[Image, Image]:
    if source.factor != 1.0:
        size = _shrunk(photograph.width, source.factor), _shrunk(photograph.height, source.factor)
        photograph = photograph.resize(size, Pillow.Resampling.BICUBIC)
    height, width = source.low_size
    high = photograph.crop((0, 0, width * scale, height * scale))
    return np.asarray(high.resize((width, height), Pillow.Resampling.BICUBIC)), np.asarray(high)


def _shrunk(side: int, factor: float) -> int:
    return max(1, round(side * factor))


def _luma(pixels: Image) -> Tensor:
    return torch.from_numpy(luma_from_rgb(pixels))


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
