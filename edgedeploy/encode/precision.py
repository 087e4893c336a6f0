"""The precision of a bundle's weights: fp16, half the bytes, if the video does not get worse."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
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


def store_models(
    models: Sequence[Artifact],
    clip: Clip,
    grid: HaloGrid,
    chunks: NDArray[np.uint8],
    options: EncodeOptions,
    folder: Path,
) -> tuple[Stored, list[Artifact]]:
    """Write models into a folder in the precision of the options; returns (precision, artifacts).

    auto is fp16 unless the PSNR of frames spread over the video drops by more than MAX_LOSS_DB. Operators
    compute in float32 in both cases.
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
    """PSNR of `models` minus PSNR of `halves`, in dB on a few frames."""
    frames = evenly_spaced(len(clip.low), SAMPLED_FRAMES)
    psnr = []
    for candidates in (models, halves):
        with closing(Networks(candidates, grid, clip.scale, full_frame=len(candidates) == 1)) as networks:
            psnr.append(measure(clip, grid.grid, restoring(networks, chunks), frames).psnr)
    return psnr[0] - psnr[1]
