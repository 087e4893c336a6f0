"""Pairs of low- and high-resolution luma patches from folders of photographs.

Every batch is a pure function of (seed, step): patches are drawn by a generator seeded with both, so a
training that was killed and resumed goes on with exactly the batches that it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgedeploy.core.errors import UsageError
from edgedeploy.tasks.colour import luma_from_rgb
from edgedeploy.tasks.images import is_image, read_image

Pair = tuple[Tensor, Tensor]


class PatchSettings(Protocol):
    """Of the folders, and of the patches drawn from them; see experiments/super_resolution.py."""

    @property
    def scale(self) -> int: ...
    @property
    def folders(self) -> tuple[str, ...]: ...
    @property
    def patch(self) -> int: ...
    @property
    def shrink(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Pairs:
    """Low- and high-resolution luma of every image, (H, W) and (s*H, s*W), and how often each is drawn."""

    images: list[Pair]
    weights: NDArray[np.float64]


def load_pairs(root: Path, settings: PatchSettings) -> Pairs:
    """Luma of every image, float32 in [0, 1]; folders are drawn equally often, their images by area.

    The low-resolution image is made as test sets are: antialiased bicubic (a = -0.5) on 8-bit RGB, luma
    afterwards. `shrink` adds copies at smaller sizes: more fine detail from a small set. Images smaller than
    a patch are left out. Raises UsageError where a folder gives none, or an image is damaged.
    """
    images: list[Pair] = []
    weights = []
    for folder in settings.folders:
        files = sorted(path for path in _entries(root / folder) if is_image(path))
        found = [_pair(file, factor, settings.scale) for file in files for factor in settings.shrink]
        usable = [pair for pair in found if min(pair[0].shape) >= settings.patch]
        if not usable:
            raise UsageError(
                f"{root / folder} has no image of at least {settings.patch * settings.scale} pixels each way",
                "name the folder that holds the recipe's folders with --data",
            )
        images += usable
        areas = np.array([low.numel() for low, _ in usable], dtype=np.float64)
        weights.append(areas / areas.sum() / len(settings.folders))
    return Pairs(images, np.concatenate(weights))


def draw_batch(pairs: Pairs, settings: PatchSettings, *, batch: int, seed: int, step: int) -> Pair:
    """The batch of this step: random patches with random flips and transposition, (N, 1, h, w) each."""
    rng = np.random.default_rng([seed, step])
    lows, highs = [], []
    p, s = settings.patch, settings.scale
    for index in rng.choice(len(pairs.images), size=batch, p=pairs.weights):
        low, high = pairs.images[index]
        y, x = (int(rng.integers(0, n - p + 1)) for n in low.shape)
        patches = [low[y : y + p, x : x + p], high[y * s : (y + p) * s, x * s : (x + p) * s]]
        flips = [axis for axis in (0, 1) if rng.integers(2)]
        patches = [patch.flip(flips) for patch in patches]
        if rng.integers(2):
            patches = [patch.T for patch in patches]
        lows.append(patches[0])
        highs.append(patches[1])
    return torch.stack(lows).unsqueeze(1), torch.stack(highs).unsqueeze(1)


def _pair(file: Path, factor: float, scale: int) -> Pair:
    image = Image.fromarray(read_image(file))
    if factor != 1.0:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    width, height = max(1, image.width // scale), max(1, image.height // scale)
    high = image.crop((0, 0, width * scale, height * scale))
    low = high.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(luma_from_rgb(np.asarray(low))), torch.from_numpy(luma_from_rgb(np.asarray(high)))


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
