"""In what precision a bundle stores its weights: half the bytes, where the video shows no difference."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.sampling import evenly_spaced
from edgedeploy.core.spec import Artifact
from edgedeploy.encode.clip import Clip
from edgedeploy.encode.measure import measure, restoring
from edgedeploy.encode.options import EncodeOptions
from edgedeploy.stdo.halo import HaloGrid
from edgedeploy.stdo.restorer import Networks

MAX_LOSS_DB = 0.05
SAMPLED_FRAMES = 8

Stored = Literal["fp32", "fp16", "int8"]


def stored(
    models: Sequence[Artifact],
    clip: Clip,
    grid: HaloGrid,
    chunks: NDArray[np.uint8],
    options: EncodeOptions,
    folder: Path,
) -> tuple[Stored, list[Artifact]]:
    """Put models into a folder in the precision asked for: (which it is, the artifacts there).

    auto is fp16 unless frames spread over the video lose more than MAX_LOSS_DB by it. Operators compute in
    float32 either way.
    """
    if options.precision in ("auto", "fp16"):
        from edgedeploy.export.half import store_half

        halves = [store_half(model, folder / model.path.name) for model in models]
        if options.precision == "fp16" or _loss(models, halves, clip, grid, chunks) <= MAX_LOSS_DB:
            return "fp16", halves
    copies = []
    for model in models:
        shutil.copyfile(model.path, folder / model.path.name)
        copies.append(Artifact.load(folder / model.path.name))
    return ("int8" if options.precision == "int8" else "fp32"), copies


def _loss(
    models: Sequence[Artifact],
    halves: Sequence[Artifact],
    clip: Clip,
    grid: HaloGrid,
    chunks: NDArray[np.uint8],
) -> float:
    """dB that the second lose against the first on a few frames."""
    frames = evenly_spaced(len(clip.low), SAMPLED_FRAMES)
    found = []
    for candidates in (models, halves):
        networks = Networks(candidates, grid, clip.scale, whole=len(candidates) == 1)
        with ExitStack() as stack:
            stack.callback(networks.close)
            found.append(measure(clip, grid.grid, restoring(networks, chunks), frames).psnr)
    return found[0] - found[1]
